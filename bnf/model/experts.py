"""Mixtures of experts over packed rows: each token goes to the experts that its router chose, whatever else is in the row.

No expert has a capacity and no token is dropped, so a token's values are a function of its own hidden state. Only the last bits of a
matrix product may depend on how many tokens an expert has. A router's auxiliary loss, which balances the load of the experts over a
batch, is no part of the objectives, and is not added.

Registered with transformers under its own name. transformers' `eager` loop forms a gradient as large as all experts for each of them, and
its `grouped_mm` multiplies in the weights' dtype, float32 under autocast too.
"""

from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm
from transformers import PretrainedConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from bnf.model.lean import replayable

EXPERTS = "bnf_experts"

# Settings of a router that must be off, and why.
_OFF = {
    "router_jitter_noise": "its noise would keep the policy from equalling the reference",
    "output_router_logits": (
        "it asks for the auxiliary loss that balances the experts' load, which is no part of the objectives and is not added"
    ),
}


class _Experts(Protocol):
    """What transformers gives an implementation of experts: a module of all experts of a layer, whose weights lie in one tensor each."""

    num_experts: int
    has_bias: bool
    is_transposed: bool
    gate_up_proj: Tensor
    gate_up_proj_bias: Tensor
    down_proj: Tensor
    down_proj_bias: Tensor

    def _apply_gate(self, gate_up: Tensor, /) -> Tensor: ...


def check_router(config: PretrainedConfig) -> None:
    """Checks that a mixture of experts is routed as packed rows compute it.

    Raises:
        ValueError: a setting of its router is on that would not be computed.
    """
    for name, why in _OFF.items():
        value = getattr(config, name, None)
        if value:
            off = type(value)()
            raise ValueError(f"{name} must be {off}, got {value}; {why}: set it to {off} in the model's config.json")


def packed_experts(module: _Experts, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """transformers' experts interface: the sum of each token's experts, weighted by its router.

    hidden_states (T, D), the experts' numbers and weights (T, k) → (T, D). The products are computed in autocast's dtype, the rest in
    float32 or better. For the backward pass only what the products give is kept.
    """
    device = hidden_states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
    # A token's copies, one for each of its experts, in the experts' order.
    experts, order = top_k_index.flatten().sort(stable=True)  # (T·k,)
    numbers = torch.arange(module.num_experts, device=hidden_states.device)
    ends = torch.searchsorted(experts, numbers, right=True, out_int32=True)  # (E,)

    def product(states: Tensor, weight: Tensor) -> Tensor:
        if weight.dtype != dtype:
            # The experts are most of a model: their copies would be, too.
            weight = replayable(partial(_cast, dtype), weight)
        weight = weight if module.is_transposed else weight.transpose(1, 2)
        if dtype == torch.float64:  # which torch's kernel doesn't know
            by_expert: Tensor = torch.ops.transformers.grouped_mm_fallback(states, weight, ends)
            return by_expert
        return grouped_mm(states, weight, offs=ends)

    biases = (module.gate_up_proj_bias, module.down_proj_bias) if module.has_bias else ()
    tokens = order // top_k_index.shape[1]
    states = replayable(_copies, hidden_states.to(dtype), tokens)
    gate_up = product(states, module.gate_up_proj)
    gated = replayable(partial(_gated, module), gate_up, experts, *biases[:1])
    down = product(gated, module.down_proj)
    return replayable(partial(_summed, hidden_states.dtype), down, top_k_weights, order, experts, *biases[1:])


def _cast(dtype: torch.dtype, weight: Tensor) -> Tensor:
    return weight.to(dtype)


def _copies(states: Tensor, tokens: Tensor) -> Tensor:
    return states[tokens]


def _gated(module: _Experts, gate_up: Tensor, experts: Tensor, bias: Tensor | None = None) -> Tensor:
    if bias is None:
        return module._apply_gate(gate_up)
    return module._apply_gate(gate_up + bias[experts]).to(gate_up.dtype)


def _summed(
    dtype: torch.dtype, down: Tensor, weights: Tensor, order: Tensor, experts: Tensor, bias: Tensor | None = None
) -> Tensor:
    """The weighted sum over each token's experts, of outputs that lie in the experts' order. (T, D)"""
    wide = down if down.dtype == torch.float64 else down.float()
    if bias is not None:
        wide = wide + bias[experts]
    by_token = wide.new_empty(wide.shape).index_copy(0, order, wide).view(*weights.shape, -1)
    return (by_token * weights.to(wide.dtype)[:, :, None]).sum(dim=1).to(dtype)


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, packed_experts)
