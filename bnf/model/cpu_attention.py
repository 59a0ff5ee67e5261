"""Attention on a CPU: tiles of queries against the keys that they see, as plain matrix products and a softmax.

torch's kernel for CPUs multiplies masked positions too, and its backward pass in bfloat16 takes three times the time of these products.
Heads that share keys are one matrix. Queries, keys and values are kept for the backward pass; scores are formed again, a tile's at a time.
"""

from typing import Protocol

import torch
from torch import Tensor

from bnf.model.segments import SegmentPlan, Tile, TiledPiece


def tiled(
    query: Tensor, key: Tensor, value: Tensor, plan: SegmentPlan, dtype: torch.dtype, scaling: float | None, window: int | None
) -> Tensor:
    """Attention of a row: products in `dtype`, but scores and softmax in float32 or better.

    query (1, H, T, D), key and value (1, H_kv, T, D) → (1, T, H, D)
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (part[0].to(dtype) for part in (query, key, value))
    output: Tensor = _Tiled.apply(query, key, value, plan.tiles(window), scale)
    return output[None]


class _Context(Protocol):
    """What the forward pass keeps for the backward pass."""

    pieces: tuple[TiledPiece, ...]
    scale: float
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Tiled(torch.autograd.Function):
    """query (H, T, D), key and value (H_kv, T, D) → (T, H, D)"""

    @staticmethod
    def forward(
        ctx: _Context, query: Tensor, key: Tensor, value: Tensor, pieces: tuple[TiledPiece, ...], scale: float
    ) -> Tensor:
        num_heads, num_tokens, size = query.shape
        output = query.new_empty(num_tokens, num_heads, size)
        grouped = output.view(num_tokens, len(key), -1, size).permute(1, 2, 0, 3)  # (H_kv, G, T, D)
        for piece in pieces:
            keys, values = _with_prompt(key, piece), _with_prompt(value, piece)
            for tile in piece.tiles:
                shares = _shares(_queries(query, key, piece, tile), keys, tile, scale).to(query.dtype)
                part = _tokens(_tokens(grouped, piece.own), tile.queries)
                part.copy_(torch.bmm(shares, _tokens(values, tile.keys)).view(part.shape))
        ctx.save_for_backward(query, key, value)
        ctx.pieces, ctx.scale = pieces, scale
        return output

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        num_tokens, size = query.shape[1:]
        grouped = grad.view(num_tokens, len(key), -1, size).permute(1, 2, 0, 3)  # (H_kv, G, T, D)
        query_grad = torch.empty_like(query, memory_format=torch.contiguous_format)
        # Sums over tiles and completions.
        key_grad, value_grad = (torch.zeros_like(part, dtype=_wide(part.dtype)) for part in (key, value))
        for piece in ctx.pieces:
            keys, values = _with_prompt(key, piece), _with_prompt(value, piece)
            keys_grad, values_grad = (torch.zeros_like(part, dtype=_wide(part.dtype)) for part in (keys, values))
            for tile in piece.tiles:
                queries = _queries(query, key, piece, tile)
                shares = _shares(queries, keys, tile, ctx.scale).to(query.dtype)
                by_output = _tokens(_tokens(grouped, piece.own), tile.queries).reshape(queries.shape)
                _tokens(values_grad, tile.keys).add_(torch.bmm(shares.transpose(1, 2), by_output))
                by_shares = torch.bmm(by_output, _tokens(values, tile.keys).transpose(1, 2))
                by_scores = torch._softmax_backward_data(by_shares, shares, -1, shares.dtype)
                _tokens(keys_grad, tile.keys).add_(torch.bmm(by_scores.transpose(1, 2), queries))
                part = _tokens(_tokens(query_grad.view(len(key), -1, num_tokens, size), piece.own), tile.queries)
                # The product's own factor: another rounding would follow otherwise.
                found = torch.baddbmm(queries, by_scores, _tokens(keys, tile.keys), beta=0, alpha=ctx.scale)
                part.copy_(found.view(part.shape))
            for total, of_piece in ((key_grad, keys_grad), (value_grad, values_grad)):
                if piece.prompt is not None:
                    num_prompt = piece.prompt[1] - piece.prompt[0]
                    _tokens(total, piece.prompt).add_(of_piece[:, :num_prompt])
                    of_piece = of_piece[:, num_prompt:]
                _tokens(total, piece.own).add_(of_piece)
        return query_grad, key_grad.mul_(ctx.scale).to(key.dtype), value_grad.to(value.dtype), None, None


def _shares(queries: Tensor, keys: Tensor, tile: Tile, scale: float) -> Tensor:
    """The softmax of a tile's scores; (H_kv, queries of all heads, keys)."""
    wide = _wide(queries.dtype)
    scores = torch.bmm(queries.to(wide) * scale, _tokens(keys, tile.keys).to(wide).transpose(1, 2))
    num_queries, num_masked = tile.mask.shape
    scores.unflatten(1, (-1, num_queries))[..., scores.shape[-1] - num_masked :].add_(tile.mask)
    return scores.softmax(dim=-1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _with_prompt(part: Tensor, piece: TiledPiece) -> Tensor:
    """Keys or values of a piece behind those of its prompt; (H_kv, keys, D)."""
    own = _tokens(part, piece.own)
    return own if piece.prompt is None else torch.cat([_tokens(part, piece.prompt), own], dim=1)


def _queries(query: Tensor, key: Tensor, piece: TiledPiece, tile: Tile) -> Tensor:
    """A tile's queries, of all heads that share keys together; (H_kv, queries of all heads, D)."""
    rows = _tokens(_tokens(query, piece.own), tile.queries)
    return rows.reshape(len(key), -1, query.shape[-1])


def _tokens(part: Tensor, bounds: tuple[int, int]) -> Tensor:
    """The tokens from the first of `bounds` to the second, along the last dimension but one."""
    return part.narrow(-2, bounds[0], bounds[1] - bounds[0])
