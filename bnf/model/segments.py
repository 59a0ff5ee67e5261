"""Which tokens of a packed row each token sees: the rule itself, and the row cut into blocks of queries with their keys.

A segment is a prompt or a completion. A token sees its own segment and its group's prompt, up to its own position, and with a
sliding window only the last `window` positions of those. Positions are logical ones (each completion's continue from its
prompt's end), so a window is as long in a row as it is in the padded sequence.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bnf.data.packing import Span

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

# Up to this many tokens a group is one block: more calls would cost more than the masked positions do.
_ONE_BLOCK_TOKENS = 512

# Neighbouring completions share a block up to this many tokens, for the same reason.
_SHARED_BLOCK_TOKENS = 128

# Queries of a tile, at most. Fewer skip more masked keys; more make larger matrix products.
_TILE_QUERIES = 128

# (batch, head, query, key) → bool, on index tensors: FlexAttention's form.
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Piece:
    """A part of a row: a prompt, a run of completions, or a whole short group. Tensors are split into pieces once."""

    start: int
    stop: int
    # The number of the piece that is its prompt; None where the piece is a prompt or holds its own.
    prompt: int | None
    # Whether it is one prompt or one completion.
    is_segment: bool

    @property
    def num_tokens(self) -> int:
        """Tokens of the piece."""
        return self.stop - self.start


@dataclass(frozen=True)
class Block:
    """Consecutive queries of one piece, and the keys they see, as places within the pieces."""

    piece: int
    queries: tuple[int, int]
    # Keys in the prompt's piece; None where the window hides it, or it is the piece itself.
    prompt_keys: tuple[int, int] | None
    own_keys: tuple[int, int]
    # (queries, keys), True where the query sees the key; None where each query sees all keys up to its own place.
    visible: Tensor | None
    _masks: dict[tuple[torch.dtype, torch.device], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def mask(self, like: Tensor) -> Tensor | None:
        """The mask that is added to the scores, in the dtype and on the device of `like`: 0 where visible, else −∞."""
        if self.visible is None:
            return None
        key = (like.dtype, like.device)
        if key not in self._masks:
            mask = torch.zeros(self.visible.shape, dtype=like.dtype).masked_fill(~self.visible, float("-inf"))
            self._masks[key] = mask.to(like.device)
        return self._masks[key]


@dataclass(frozen=True)
class Tile:
    """Consecutive queries of a piece, and the keys that one of them sees, as places among those of its prompt and its own."""

    queries: tuple[int, int]
    keys: tuple[int, int]
    # Added to the scores of the last of these keys, which not every query sees: 0 where it does, else −∞. (queries, keys)
    mask: Tensor


@dataclass(frozen=True)
class TiledPiece:
    """A piece as tiles, by the places in the row of its tokens and of its prompt's where that is another piece."""

    own: tuple[int, int]
    prompt: tuple[int, int] | None
    tiles: tuple[Tile, ...]


class SegmentPlan:
    """The spans of a row, in the forms that the kernels take. Each form is made once for all layers."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = tuple(spans)
        self.num_tokens = self.spans[-1].stop
        self.longest_path = max(span.prompt_length + max(span.completion_lengths) for span in self.spans)
        # Every prompt has one completion: plain packing, where each group is one causal sequence.
        self.is_plain = all(len(span.completion_lengths) == 1 for span in self.spans)
        self.pieces = tuple(self._cut())
        # FlexAttention's, by window and device (`bnf.model.cuda_attention`).
        self.block_masks: dict[tuple[int | None, torch.device], BlockMask] = {}
        self._tiles: dict[int | None, tuple[TiledPiece, ...]] = {}
        self._blocks: dict[tuple[int | None, int | None], tuple[Block, ...]] = {}
        self._vectors: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}
        self._bounds: dict[torch.device, Tensor] = {}

    def window(self, sliding_window: int | None) -> int | None:
        """A layer's window; None where no sequence of the row is longer."""
        return None if sliding_window is None or sliding_window >= self.longest_path else sliding_window

    def visible(self, queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
        """True where the query sees the key. Both are tokens' places in the row, of shapes that broadcast."""
        return _visible(self.vectors(queries.device), queries, keys, window)

    def mask_mod(self, window: int | None, device: torch.device) -> MaskMod:
        """`visible` in FlexAttention's form."""
        # The traced function holds three tensors and the window. Were it to hold the plan, each number in the plan would become an
        # argument of the compiled kernel.
        vectors = self.vectors(device)
        return lambda batch, head, query, key: _visible(vectors, query, key, window)

    def vectors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """For each token the number of its segment, the number of its prompt's segment, and its position; (T,) each."""
        if device not in self._vectors:
            lengths: list[int] = []
            prompts: list[int] = []
            starts: list[int] = []
            for span in self.spans:
                prompts.extend([len(lengths)] * (1 + len(span.completion_lengths)))
                starts.extend([0] + [span.prompt_length] * len(span.completion_lengths))
                lengths.extend([span.prompt_length, *span.completion_lengths])
            sizes = torch.tensor(lengths)
            segment = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
            firsts = (sizes.cumsum(0) - sizes)[segment]
            position = torch.arange(self.num_tokens) - firsts + torch.tensor(starts)[segment]
            made = (segment, torch.tensor(prompts)[segment], position)
            self._vectors[device] = tuple(vector.to(device) for vector in made)  # type: ignore[assignment]
        return self._vectors[device]

    def blocks(self, window: int | None, most_queries: int | None = None) -> tuple[Block, ...]:
        """The row as blocks, in order: each of at most `most_queries` queries, without keys that the window hides from all of them."""
        key = (window, most_queries)
        if key not in self._blocks:
            self._blocks[key] = tuple(self._make_blocks(window, most_queries))
        return self._blocks[key]

    def tiles(self, window: int | None) -> tuple[TiledPiece, ...]:
        """The row as tiles, in order, without keys before the first and behind the last that a tile's queries see."""
        if window not in self._tiles:
            self._tiles[window] = tuple(self._make_tiles(window))
        return self._tiles[window]

    def cumulative_lengths(self, device: torch.device) -> Tensor:
        """(G+1,) int32: where each group of a plain row starts and the last one stops."""
        assert self.is_plain
        if device not in self._bounds:
            self._bounds[device] = torch.tensor([0, *(span.stop for span in self.spans)], dtype=torch.int32, device=device)
        return self._bounds[device]

    def _cut(self) -> Iterator[Piece]:
        number = 0
        for span in self.spans:
            if span.num_tokens <= _ONE_BLOCK_TOKENS:
                yield Piece(span.start, span.stop, None, is_segment=False)
                number += 1
                continue
            yield Piece(span.start, span.start + span.prompt_length, None, is_segment=True)
            runs: list[list[tuple[int, int]]] = []
            for start, length in span.completion_starts():
                if not runs or start + length - runs[-1][0][0] > _SHARED_BLOCK_TOKENS:
                    runs.append([])
                runs[-1].append((start, start + length))
            for run in runs:
                yield Piece(run[0][0], run[-1][1], number, is_segment=len(run) == 1)
            number += 1 + len(runs)

    def _make_blocks(self, window: int | None, most_queries: int | None) -> Iterator[Block]:
        for number, piece in enumerate(self.pieces):
            prompt = None if piece.prompt is None else self.pieces[piece.prompt]
            step = most_queries or piece.num_tokens
            for first in range(0, piece.num_tokens, step):
                last = min(first + step, piece.num_tokens)
                if window is None and piece.is_segment and prompt is None and first == 0:
                    yield Block(number, (0, last), None, (0, last), None)
                    continue
                num_prompt_keys = 0 if prompt is None else prompt.num_tokens
                keys = torch.arange(piece.start, piece.start + last)
                if prompt is not None:
                    keys = torch.cat([torch.arange(prompt.start, prompt.stop), keys])
                queries = torch.arange(piece.start + first, piece.start + last)
                visible = self.visible(queries[:, None], keys[None, :], window)
                # A window hides leading keys from all queries of the block: of the prompt's, and of the piece's own.
                hidden = ~visible.any(dim=0)
                skip = int(hidden[:num_prompt_keys].long().cumprod(0).sum())
                own_skip = int(hidden[num_prompt_keys:].long().cumprod(0).sum())
                columns = [visible[:, skip:num_prompt_keys], visible[:, num_prompt_keys + own_skip :]]
                visible = torch.cat(columns, dim=1)
                causal = visible.shape[0] == visible.shape[1] and torch.equal(visible, torch.ones_like(visible).tril())
                yield Block(
                    number,
                    (first, last),
                    (skip, num_prompt_keys) if skip < num_prompt_keys else None,
                    (own_skip, last),
                    None if causal else visible,
                )

    def _make_tiles(self, window: int | None) -> Iterator[TiledPiece]:
        for piece in self.pieces:
            prompt = None if piece.prompt is None else (self.pieces[piece.prompt].start, self.pieces[piece.prompt].stop)
            before = torch.arange(*(prompt or (0, 0)))
            tiles = []
            # All of about the same size.
            number = -(-piece.num_tokens // _TILE_QUERIES)
            bounds = [piece.num_tokens * each // number for each in range(number + 1)]
            for first, last in pairwise(bounds):
                queries = torch.arange(piece.start + first, piece.start + last)
                keys = torch.cat([before, torch.arange(piece.start, piece.start + last)])
                visible = self.visible(queries[:, None], keys[None, :], window)
                num_hidden = _num_leading(~visible.any(dim=0))
                hidden = ~visible[:, num_hidden + _num_leading(visible[:, num_hidden:].all(dim=0)) :]
                mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
                tiles.append(Tile((first, last), (num_hidden, len(before) + last), mask))
            yield TiledPiece((piece.start, piece.stop), prompt, tuple(tiles))


def _num_leading(flags: Tensor) -> int:
    """How many of the first flags are True."""
    return int(flags.long().cumprod(0).sum())


def _visible(vectors: tuple[Tensor, Tensor, Tensor], queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    segment, prompt, position = vectors
    key_segment = segment[keys]
    related = (key_segment == segment[queries]) | (key_segment == prompt[queries])
    distance = position[queries] - position[keys]
    seen = related & (distance >= 0)
    return seen if window is None else seen & (distance < window)
