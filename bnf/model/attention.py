"""Attention over packed rows: each completion attends to its group's prompt and to itself, each prompt to itself
(`bnf.model.segments` has the rule).

Registered with transformers under names of its own, for which transformers builds no mask. `serving` says which kernel serves
where: on CPU tiles of `bnf.model.cpu_attention`; under soft-capping, with sinks, and on other devices without CUDA, blocks of the row
through torch's own functions; on CUDA FlexAttention, FlashAttention's variable-length kernel where prompts are not shared, or blocks
too: the name says which (`bnf.model.kernels` chooses it).
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bnf.model import cpu_attention
from bnf.model.lean import replayable
from bnf.model.segments import SegmentPlan

ATTENTION = "bnf_segments"

# The names under which CUDA's kernels are chosen, and those kernels: a row takes the first that can serve it. Under ATTENTION alone
# it takes those that are fastest.
FASTEST = ("varlen", "flex")
KERNELS: dict[str, tuple[str, ...]] = {
    f"{ATTENTION}_{'_'.join(kernels)}": kernels
    for kernels in (FASTEST, ("flex",), ("varlen", "blocks"), ("blocks",), ("varlen",))
}

# Arguments that models pass to attention and that change nothing here. Any other that is set is refused.
_WITHOUT_EFFECT = frozenset(
    {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "return_dict", "is_causal"}
)

# Queries in a block under soft-capping, sinks or a window: it bounds the scores in memory, and the keys that no query sees.
_BLOCK_QUERIES = 256


def serving(
    device: torch.device,
    dtype: torch.dtype,
    plan: SegmentPlan,
    softcap: float | None,
    kernels: Sequence[str] = FASTEST,
    sinks: Tensor | None = None,
) -> str:
    """The kernel that serves: `blocks` (on CPU in tiles, without soft-capping and sinks), or on CUDA the first of `kernels` that can.

    FlashAttention computes in half precision, knows no shared prompts, and torch's interface to it knows no soft-capping and no sinks.

    Raises:
        ValueError: varlen is the only one, and can't.
    """
    if device.type != "cuda":
        return "blocks"
    is_half = dtype in (torch.bfloat16, torch.float16)
    is_for_varlen = plan.is_plain and is_half and softcap is None and sinks is None
    for kernel in kernels:
        if kernel != "varlen" or is_for_varlen:
            return kernel
    what = "prompts are shared" if is_half else f"it computes in {dtype}"
    what = "scores are soft-capped" if softcap is not None else "there are sinks" if sinks is not None else what
    raise ValueError(f"attention must not be varlen where {what}, got 'varlen'; write train.attention=auto, or leave it out")


def segment_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: SegmentPlan | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    kernels: Sequence[str] = FASTEST,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """transformers' attention interface over a packed row; `segments` comes through the model's forward, `kernels` from the name.

    query (1, H, T, D), key and value (1, H_kv, T, D) → (1, T, H, D). `s_aux` (H,) are sinks: each head's logit that joins every softmax
    and has no value (gpt-oss, arXiv 2508.10925).

    Raises:
        ValueError: `segments` is missing, or the model asks for a part of attention that is not computed here.
    """
    if segments is None:
        raise ValueError(
            f"segments must be given with attn_implementation={ATTENTION!r}, got None; call bnf.model.logps.row_logps"
        )
    if dropout:
        raise ValueError(f"attention_dropout must be 0 on packed rows, got {dropout}; set it to 0 in the model's config.json")
    unknown = sorted(name for name, given in kwargs.items() if given is not None and name not in _WITHOUT_EFFECT)
    if unknown:
        raise ValueError(
            f"attention must use nothing but scaling, a sliding window, soft-capping and sinks on packed rows, got "
            f"{', '.join(unknown)} from {type(module).__name__}; use a model of another family"
        )
    assert attention_mask is None and query.shape[0] == 1 and query.shape[2] == segments.num_tokens
    device = query.device.type
    # Under autocast its dtype: rotated queries and keys come in float32.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    window = segments.window(sliding_window)
    kernel = serving(query.device, dtype, segments, softcap, kernels, s_aux)
    with torch.autocast(device, enabled=False):
        if kernel == "blocks" and device == "cpu" and softcap is None and s_aux is None:
            return cpu_attention.tiled(query, key, value, segments, dtype, scaling, window), None
        if kernel == "blocks":
            return _blocks_attention(query, key, value, segments, dtype, scaling, window, softcap, s_aux), None
        from bnf.model import cuda_attention

        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        if kernel == "varlen":
            return cuda_attention.varlen(query, key, value, segments, scaling, window), None
        return cuda_attention.flex(module, query, key, value, segments, scaling, window, softcap, s_aux), None


def _blocks_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: SegmentPlan,
    dtype: torch.dtype,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention block by block; (1, T, H, D)."""
    # Split once: the gradient of a slice would be as large as the row, for every block.
    sizes = [piece.num_tokens for piece in plan.pieces]
    # Heads that share keys lie along the second dimension: keys are then repeated without a copy.
    num_heads, num_key_heads = query.shape[1], key.shape[1]
    queries = query.view(num_key_heads, num_heads // num_key_heads, *query.shape[2:]).split(sizes, dim=2)
    keys, values = (part.transpose(0, 1).split(sizes, dim=2) for part in (key, value))
    outputs: list[Tensor] = []
    forms_scores = softcap is not None or sinks is not None
    for block in plan.blocks(window, _BLOCK_QUERIES if window is not None or forms_scores else None):
        own = block.piece
        block_query = _narrow(queries[own], block.queries)
        block_keys, block_values = _narrow(keys[own], block.own_keys), _narrow(values[own], block.own_keys)
        if block.prompt_keys is not None:
            prompt = plan.pieces[own].prompt
            assert prompt is not None
            block_keys = torch.cat([_narrow(keys[prompt], block.prompt_keys), block_keys], dim=2)
            block_values = torch.cat([_narrow(values[prompt], block.prompt_keys), block_values], dim=2)
        arguments = (block_query.to(dtype), block_keys.to(dtype), block_values.to(dtype))
        mask = block.mask(arguments[0])
        if not forms_scores:
            shape = (-1, block_query.shape[1], -1, -1)
            output = scaled_dot_product_attention(
                arguments[0],
                arguments[1].expand(shape),
                arguments[2].expand(shape),
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
            )
        else:
            # The scores are formed again in the backward pass: memory holds those of one block.
            output = checkpoint(
                _formed, *arguments, mask, sinks, scaling, softcap, use_reentrant=False, preserve_rng_state=False
            )
            output = output.to(dtype)
        outputs.append(output)
    return replayable(_joined, *outputs)


def _joined(*outputs: Tensor) -> Tensor:
    """Blocks' outputs (H_kv, G, n, D) as the output projection takes them; (1, T, H, D)."""
    joined = torch.cat(outputs, dim=2)
    return joined.flatten(0, 1).transpose(0, 1)[None].contiguous()


def _formed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    sinks: Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """Attention whose scores are `c·tanh(s/c)` (Gemma 2, arXiv 2408.00118), or share their softmax with sinks, or both; scores and
    softmax in float32 or better.

    query (H_kv, G, n, D), key and value (H_kv, 1, m, D), mask (n, m) or None for a causal square, sinks (H,) → (H_kv, G, n, D)
    """
    wide = torch.float32 if query.dtype in (torch.bfloat16, torch.float16) else query.dtype
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query.to(wide) * scale) @ key.to(wide).transpose(2, 3)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        visible = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~visible, float("-inf"))
    else:
        scores = scores + mask
    if sinks is None:
        shares = scores.softmax(dim=-1)
    else:
        column = sinks.to(wide).view(*scores.shape[:2], 1, 1).expand(-1, -1, scores.shape[2], 1)
        shares = torch.cat([scores, column], dim=-1).softmax(dim=-1)[..., :-1]
    return shares.to(value.dtype) @ value


def _narrow(part: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Places `bounds` of the third dimension; the tensor itself where that is all of it."""
    return part if bounds == (0, part.shape[2]) else part[:, :, bounds[0] : bounds[1]]


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, segment_attention)
for _name, _kernels in KERNELS.items():
    ALL_ATTENTION_FUNCTIONS.register(_name, partial(segment_attention, kernels=_kernels))
