"""Layers that keep less for their backward pass: what a norm or a gate gives is cheap to compute and large to keep.

Of a token and layer of SmolLM2-135M, transformers' layers keep 34 KiB in bf16: a norm keeps float32 products, each projection behind
it a bf16 copy of the norm's output, a gate its activation. Here a norm keeps its input, which the residual stream holds anyway, and
gives its output in the projections' dtype, once for all of them; a gate keeps its two inputs. The rest is computed again in the
backward pass, by the same code, so that values are the same to the bit.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


class _Norm(nn.Module):
    """A norm whose output goes to projections and nowhere else."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return _recomputed(self._normed, hidden_states)

    def _normed(self, hidden_states: Tensor) -> Tensor:
        normed: Tensor = super().forward(hidden_states)
        device = hidden_states.device.type
        # What autocast would do in each of the projections.
        return normed.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else normed


class _Mlp(nn.Module):
    """A gated MLP: down(act(gate) · up)."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down_proj(_recomputed(self._gated, self.gate_proj(x), self.up_proj(x)))
        return down

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        gated: Tensor = self.act_fn(gate) * up
        return gated


def keep_less(model: PreTrainedModel) -> None:
    """Has the decoder layers of the families of `bnf.families` keep less; their parameters and names stay as they are."""
    for layer in model.modules():
        if hasattr(layer, "input_layernorm") and hasattr(layer, "mlp"):
            before_mlp = (
                "pre_feedforward_layernorm" if hasattr(layer, "pre_feedforward_layernorm") else "post_attention_layernorm"
            )
            for name, kind in (("input_layernorm", _Norm), (before_mlp, _Norm), ("mlp", _Mlp)):
                module = getattr(layer, name)
                module.__class__ = _with(kind, module.__class__)


@cache
def _with(kind: Any, of: Any) -> type[nn.Module]:
    """The class `of` with another forward, under its own name: error messages and PEFT show it."""
    return type(of.__name__, (kind, of), {})


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    output: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return output
