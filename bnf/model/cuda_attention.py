"""Kernels that serve packed rows on CUDA: FlexAttention, and FlashAttention over sequences of unequal length.

Both take what `bnf.model.segments` says of the row, and give (1, T, H, D).
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput, AuxRequest, BlockMask, create_block_mask
from torch.nn.attention.varlen import varlen_attn
from transformers.integrations import flex_attention as flex_integration
from transformers.integrations.flex_attention import flex_attention_forward

from bnf.model.segments import SegmentPlan


def flex(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: SegmentPlan,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None = None,
) -> Tensor:
    """FlexAttention (arXiv 2412.05496), compiled once by transformers' own wrapper, which also soft-caps the scores."""
    mask = block_mask(plan, window, query.device)
    if sinks is not None:
        assert softcap is None
        return _with_sinks(module, query, key, value, mask, scaling, sinks)
    output, _ = flex_attention_forward(module, query, key, value, mask, scaling=scaling, softcap=softcap)
    return output


def _with_sinks(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: BlockMask,
    scaling: float | None,
    sinks: Tensor,
) -> Tensor:
    """FlexAttention whose softmax a logit of each head joins: the scores keep `exp(l)/(exp(l) + exp(s))` of it, l their log-sum-exp.

    transformers' own sinks round the log-sum-exp to the dtype of the values.
    """
    output, aux = flex_integration.compile_friendly_flex_attention(
        query,
        key,
        value,
        training=module.training,
        block_mask=mask,
        enable_gqa=True,
        scale=scaling,
        return_aux=AuxRequest(lse=True),
    )
    assert isinstance(aux, AuxOutput) and aux.lse is not None
    share = torch.sigmoid(aux.lse - sinks.to(aux.lse.dtype)[:, None])  # (1, H, T)
    joined: Tensor = output * share[..., None]
    return joined.to(query.dtype).transpose(1, 2).contiguous()


def block_mask(plan: SegmentPlan, window: int | None, device: torch.device) -> BlockMask:
    """The row's block mask under a window; made once for all layers that have that window."""
    key = (window, device)
    if key not in plan.block_masks:
        size = plan.num_tokens
        # Compiled, the (T, T) mask behind it is never written out.
        is_compiled = device.type == "cuda"
        plan.block_masks[key] = create_block_mask(
            plan.mask_mod(window, device), None, None, size, size, device=str(device), _compile=is_compiled
        )
    return plan.block_masks[key]


def varlen(query: Tensor, key: Tensor, value: Tensor, plan: SegmentPlan, scaling: float | None, window: int | None) -> Tensor:
    """FlashAttention (arXiv 2307.08691) over a plain row: every group is one causal sequence."""
    bounds = plan.cumulative_lengths(query.device)
    output = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        bounds,
        bounds,
        plan.longest_path,
        plan.longest_path,
        scale=scaling,
        # (tokens before, tokens after) that a token sees beside itself.
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
    )
    assert isinstance(output, Tensor)
    return output[None]
