"""Kernels that serve packed rows on CUDA: FlexAttention, and FlashAttention over sequences of unequal length.

Both take what `bnf.model.segments` says of the row, and give (1, T, H, D).
"""

import torch
import torch._dynamo
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput, AuxRequest, BlockMask, create_block_mask
from torch.nn.attention.varlen import varlen_attn
from transformers.integrations import flex_attention as flex_integration
from transformers.integrations.flex_attention import flex_attention_forward

from bnf.model.segments import SegmentPlan

# A process compiles one kernel for each dtype and window, with gradients and without, first for one length and then for any. Past
# torch's limit of 8 the unfused computation would serve in silence, whose memory grows with the row's square.
_COMPILATIONS = {"recompile_limit": 64, "fail_on_recompile_limit_hit": True}

# Rows of less than 128 tokens would get a kernel that is made for decoding.
_ONE_KERNEL = {"BACKEND": "TRITON"}

_compiled_block_mask = torch.compile(create_block_mask)


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
    with torch._dynamo.config.patch(_COMPILATIONS):
        mask = block_mask(plan, window, query.device)
        if sinks is not None:
            assert softcap is None
            return _with_sinks(module, query, key, value, mask, scaling, sinks)
        output, _ = flex_attention_forward(
            module, query, key, value, mask, scaling=scaling, softcap=softcap, kernel_options=_ONE_KERNEL
        )
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
        kernel_options=_ONE_KERNEL,
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
        make = _compiled_block_mask if device.type == "cuda" else create_block_mask
        with torch.no_grad():
            plan.block_masks[key] = make(plan.mask_mod(window, device), None, None, size, size, device=str(device))
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
