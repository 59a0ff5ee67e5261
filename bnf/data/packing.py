"""Rows: prompt groups packed flat into a token budget, each prompt once, followed by its completions.

A row is computed at once, by the reference pass and by training alike. Rows depend on the data, the token budget and the most groups that
a row may hold, never on a seed: the training seed permutes whole rows. Within a group the positions of every completion continue from
the prompt's end, and each completion attends to the prompt and to itself (`bnf.model.segments`). In plain packing, for kernels and
comparisons that need it, every completion has its own copy of the prompt.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from bnf.data.groups import ChosenGroups, PromptGroup
from bnf.data.longest import too_long
from bnf.data.row_order import order_digest, row_order, tokens_in_row


@dataclass(frozen=True)
class Span:
    """The place in a row of a group, or in plain packing of a prompt with one completion: its first token, and the lengths of prompt and
    completions.
    """

    start: int
    prompt_length: int
    completion_lengths: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and all completions."""
        return self.prompt_length + sum(self.completion_lengths)

    @property
    def stop(self) -> int:
        """One past the group's last token."""
        return self.start + self.num_tokens

    def completion_starts(self) -> Iterator[tuple[int, int]]:
        """(first token in the row, length) of each completion."""
        start = self.start + self.prompt_length
        for length in self.completion_lengths:
            yield start, length
            start += length


@dataclass(frozen=True)
class Row:
    """Groups that are computed together, and their tensors: T tokens, N completion tokens, C completions, P pairs."""

    groups: Sequence[PromptGroup]
    # The groups' places in the data set.
    indices: tuple[int, ...]
    # False: plain packing.
    share_prompts: bool = True

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The spans of the groups, in order; in plain packing one for each completion."""
        spans: list[Span] = []
        start = 0
        for group in self.groups:
            lengths = [len(completion.token_ids) for completion in group.completions]
            for together in [lengths] if self.share_prompts else [[length] for length in lengths]:
                spans.append(Span(start, len(group.prompt_ids), tuple(together)))
                start = spans[-1].stop
        return tuple(spans)

    def _first_spans(self) -> list[Span]:
        """Of each group the span that holds its prompt; in plain packing the first of those."""
        if self.share_prompts:
            return list(self.spans)
        sizes = [len(group.completions) for group in self.groups]
        return [self.spans[stop - size] for size, stop in zip(sizes, accumulate(sizes), strict=True)]

    @property
    def num_tokens(self) -> int:
        """T"""
        return self.spans[-1].stop

    @property
    def num_completion_tokens(self) -> int:
        """N"""
        return sum(sum(span.completion_lengths) for span in self.spans)

    @property
    def input_ids(self) -> Tensor:
        """(1, T)"""
        parts: list[Sequence[int]] = []
        for group in self.groups:
            for number, completion in enumerate(group.completions):
                if number == 0 or not self.share_prompts:
                    parts.append(group.prompt_ids)
                parts.append(completion.token_ids)
        return _joined(parts)[None]

    @property
    def position_ids(self) -> Tensor:
        """(1, T): the prompt's from 0, each completion's from the prompt's end."""
        positions: list[int] = []
        for span in self.spans:
            positions.extend(range(span.prompt_length))
            for length in span.completion_lengths:
                positions.extend(range(span.prompt_length, span.prompt_length + length))
        return torch.tensor([positions])

    @property
    def predicting(self) -> Tensor:
        """(N,) the place in the row of the hidden state that predicts each completion token; for a completion's first token it is that of
        the prompt's last.
        """
        places: list[int] = []
        for span in self.spans:
            for start, length in span.completion_starts():
                places.append(span.start + span.prompt_length - 1)
                places.extend(range(start, start + length - 1))
        return torch.tensor(places)

    @property
    def targets(self) -> Tensor:
        """(N,) the completion tokens, group by group and completion by completion."""
        return _joined([completion.token_ids for group in self.groups for completion in group.completions])

    @property
    def predicting_prompts(self) -> Tensor:
        """(M,) the place in the row of the hidden state that predicts each prompt token; nothing predicts a prompt's first token."""
        spans = self._first_spans()
        return torch.tensor(
            [place for span in spans for place in range(span.start, span.start + span.prompt_length - 1)], dtype=torch.long
        )

    @property
    def prompt_targets(self) -> Tensor:
        """(M,) the prompts' tokens after the first, group by group."""
        return _joined([group.prompt_ids[1:] for group in self.groups])

    @property
    def prompt_lengths(self) -> Tensor:
        """(G,) how many of each prompt's tokens are predicted."""
        return torch.tensor([len(group.prompt_ids) - 1 for group in self.groups])

    @cached_property
    def lengths(self) -> Tensor:
        """(C,) tokens of each completion."""
        return torch.tensor([length for span in self.spans for length in span.completion_lengths])

    @property
    def completion_of_token(self) -> Tensor:
        """(N,) index of each completion token's completion within the row."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)

    @property
    def group_of_completion(self) -> Tensor:
        """(C,) index of each completion's group within the row."""
        counts = torch.tensor([len(group.completions) for group in self.groups])
        return torch.repeat_interleave(torch.arange(len(self.groups)), counts)

    @property
    def labels(self) -> Tensor:
        """(C,) +1 or −1"""
        return torch.tensor([completion.label for group in self.groups for completion in group.completions])

    @property
    def scores(self) -> Tensor:
        """(C,) float32, NaN where there is none"""
        scores = [completion.score for group in self.groups for completion in group.completions]
        return torch.tensor([float("nan") if score is None else score for score in scores], dtype=torch.float32)

    @property
    def pairs(self) -> Tensor:
        """(P, 2) indices of chosen and rejected completions within the row."""
        pairs: list[tuple[int, int]] = []
        offset = 0
        for group in self.groups:
            pairs.extend((offset + chosen, offset + rejected) for chosen, rejected in group.pairs)
            offset += len(group.completions)
        return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)

    @property
    def shortest_of_pair(self) -> Tensor:
        """(C,) the least length among each completion and those that it is paired with."""
        shortest = self.lengths.clone()
        for chosen, rejected in self.pairs.tolist():
            pair_min = min(int(self.lengths[chosen]), int(self.lengths[rejected]))
            shortest[chosen] = min(int(shortest[chosen]), pair_min)
            shortest[rejected] = min(int(shortest[rejected]), pair_min)
        return shortest


def pack(
    groups: Sequence[PromptGroup],
    max_tokens_per_row: int,
    *,
    max_groups_per_row: int | None = None,
    share_prompts: bool = True,
) -> list[Row]:
    """Packs all groups into rows of at most `max_tokens_per_row` tokens and `max_groups_per_row` groups, as `row_order` says.

    Raises:
        ValueError: the longest group, which is named, is longer than a row.
    """
    sizes = [tokens_in_row(group, share_prompts) for group in groups]
    longest = max(range(len(groups)), key=sizes.__getitem__, default=None)
    if longest is not None and sizes[longest] > max_tokens_per_row:
        raise too_long(groups[longest].id, sizes[longest], max_tokens_per_row)
    order = row_order(groups, max_tokens_per_row, max_groups_per_row=max_groups_per_row, share_prompts=share_prompts)
    return [Row(ChosenGroups(groups, row), row, share_prompts) for row in order]


def step_bounds(sizes: Sequence[int], num_steps: int) -> list[int]:
    """Splits rows of `sizes` groups, in the order given, into `num_steps` steps of about equally many groups. Gives for each step the
    index after its last row.

    A step ends at the row where the groups so far come nearest to its share of all groups. It has at least one row.
    """
    ends = list(accumulate(sizes))
    bounds: list[int] = []
    for number in range(1, num_steps + 1):
        share = ends[-1] * number / num_steps
        least, most = (bounds[-1] if bounds else 0) + 1, len(sizes) - (num_steps - number)
        after = bisect_left(ends, share)
        nearest = after if after and share - ends[after - 1] <= ends[after] - share else after + 1
        bounds.append(min(max(nearest, least), most))
    return bounds


def rows_digest(rows: Sequence[Row]) -> str:
    """The digest of these rows, as `order_digest` says."""
    return order_digest((row.indices, row.groups) for row in rows)


def _joined(parts: Sequence[Sequence[int]]) -> Tensor:
    """All token ids in a row. (T,)"""
    return torch.from_numpy(np.concatenate([np.asarray(ids) for ids in parts], dtype=np.int64))
