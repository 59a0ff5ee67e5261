"""Layers that keep less for their backward pass: the outputs of norms and gates are cheap to compute and large to keep.

transformers' layers of SmolLM2-135M keep 34 KiB per token and layer in bf16: a norm keeps float32 products, each projection behind it a
bf16 copy of the norm's output, a gate its activation, and the projection behind that the gate's output. Here norms, gates and the
joined outputs of attention's blocks keep only their inputs, which are kept anyway. The projections behind them keep nothing: in the
backward pass the same code computes their inputs once more, for their gradients and for those before them. Where projections read the
residual stream itself, they share one copy. Nor do projections keep the copy of their weight that autocast makes, two bytes for every
parameter of the model: they cast it again. Values are the same to the bit.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear
from transformers import PreTrainedModel

# The attribute of a storage that holds the `_Call` whose output it is.
_CALL = "_bnf_call"


class _ProjectionContext(Protocol):
    """What a projection's forward pass keeps for its backward pass, and what autograd gives of it."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Norm(nn.Module):
    """A norm whose output only projections read, routers among them, and functions that are replayed."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return replayable(self._normed, hidden_states)

    def _normed(self, hidden_states: Tensor) -> Tensor:
        return _as_projections_read(super().forward(hidden_states))


class _InnerNorm(nn.Module):
    """A norm whose output is rotated, or added to the residual stream."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return replayable(super().forward, hidden_states)


class _Attention(nn.Module):
    """Attention on the residual stream itself, without a norm between."""

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor | None]:
        attended: tuple[Tensor, Tensor | None] = super().forward(_as_projections_read(hidden_states), *args, **kwargs)
        return attended


class _Gated(nn.Module):
    """A gated MLP: down(act(gate) · up)."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        x = _as_projections_read(x)
        down: Tensor = self.down_proj(replayable(self._gated, self.gate_proj(x), self.up_proj(x)))
        return down

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        gated: Tensor = self.act_fn(gate) * up
        return gated


class _Linear(nn.Module):
    """A projection that keeps its weight for the backward pass, and not autocast's copy of it."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        device = input.device.type
        if not (torch.is_autocast_enabled(device) and torch.is_grad_enabled()):
            # Without gradients nothing is kept, and autocast's own copies serve all calls in a context.
            projected: Tensor = super().forward(input)
            return projected
        projected = _Projection.apply(input.to(torch.get_autocast_dtype(device)), self.weight, self.bias)
        return projected


class _Projection(torch.autograd.Function):
    """`x @ W.T + b` in the dtype of `x` (…, D), with W (N, D) and b (N,), where there is one, in another."""

    @staticmethod
    def forward(ctx: _ProjectionContext, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: _ProjectionContext, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        of_x = grad @ weight.to(grad.dtype) if ctx.needs_input_grad[0] else None
        of_weight = (rows.T @ x.flatten(0, -2)).to(weight.dtype) if ctx.needs_input_grad[1] else None
        of_bias = rows.sum(0).to(weight.dtype) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias


class _FusedGated(nn.Module):
    """A gated MLP with one projection for both: down(act(gate) · up)."""

    gate_up_proj: nn.Module
    down_proj: nn.Module
    activation_fn: nn.Module

    def forward(self, hidden_states: Tensor) -> Tensor:
        down: Tensor = self.down_proj(replayable(self._gated, self.gate_up_proj(hidden_states)))
        return down

    def _gated(self, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        gated: Tensor = up * self.activation_fn(gate)
        return gated


class _Ungated(nn.Module):
    """An MLP without a gate: down(act(up))."""

    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down_proj(replayable(self.act_fn, self.up_proj(x)))
        return down


# Each kind of MLP with the attributes by which it is known. The first that a module has all of is its kind; another stays as it is.
_MLPS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (_Gated, ("gate_proj", "up_proj", "down_proj", "act_fn")),
    (_FusedGated, ("gate_up_proj", "down_proj", "activation_fn")),
    (_Ungated, ("up_proj", "down_proj", "act_fn")),
)

# Norms by their names in a layer. `post_attention_layernorm` is one before the MLP in most families, and one after attention in others.
BEFORE_ATTENTION = ("input_layernorm", "attention_layernorm")
BEFORE_MLP = ("pre_feedforward_layernorm", "feedforward_layernorm")
EITHER = "post_attention_layernorm"
AFTER = ("post_feedforward_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")
OF_QUERIES_AND_KEYS = ("q_norm", "k_norm")


def keep_less(model: PreTrainedModel) -> None:
    """Makes the decoder layers of a supported model keep less, within `replaying`. Parameters and names stay."""
    for module in model.get_decoder().modules():
        if type(module) is nn.Linear:
            _turn(module, _Linear)
    for layer in model.get_decoder().layers:
        begins_with_norm = has_modules(layer, *BEFORE_ATTENTION)
        either: type = _Norm if begins_with_norm and not has_modules(layer, *BEFORE_MLP) else _InnerNorm
        norms = (
            *((layer, name, _Norm) for name in (*BEFORE_ATTENTION, *BEFORE_MLP)),
            (layer, EITHER, either),
            *((layer, name, _InnerNorm) for name in AFTER),
            *((layer.self_attn, name, _InnerNorm) for name in OF_QUERIES_AND_KEYS),
        )
        for owner, name, kind in norms:
            if has_modules(owner, name):
                _turn(getattr(owner, name), kind)
        if not begins_with_norm:
            _turn(layer.self_attn, _Attention)
        # Experts keep less by themselves (`bnf.model.experts`). One that all tokens share is an MLP.
        for mlp in (layer.mlp, getattr(layer.mlp, "shared_expert", None)):
            for kind, names in _MLPS:
                if mlp is not None and all(has_modules(mlp, name) for name in names):
                    _turn(mlp, kind)
                    break


def has_modules(module: nn.Module, *names: str) -> bool:
    """Whether the module has one of these."""
    return any(getattr(module, name, None) is not None for name in names)


def _turn(module: nn.Module, kind: type) -> None:
    own: type = module.__class__
    module.__class__ = _with(kind, own)


def _as_projections_read(hidden_states: Tensor) -> Tensor:
    """What autocast would make of it in each projection, made once for all of them."""
    device = hidden_states.device.type
    return hidden_states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden_states


@cache
def _with(kind: type, of: type) -> type:
    """The class `of` with the forward of `kind`, under its own name, which error messages and PEFT show."""
    return type(of.__name__, (kind, of), {})


def replayable(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, keeping only the inputs for the backward pass: nothing in between and, within `replaying`, not the output.

    The function must be cheap and deterministic, and its output no view of an input.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    call = _Call(function, inputs)
    with saved_tensors_hooks(call.number, call.numbered):
        output = function(*inputs)
    # On the memory and not on the tensor: a projection keeps a view of its own.
    setattr(output.untyped_storage(), _CALL, call)
    return output


def replaying() -> saved_tensors_hooks:
    """A context for a forward pass: the outputs of `replayable` functions are computed again in the backward pass instead of kept.

    Layers that are checkpointed as a whole keep nothing anyway, and are not affected.
    """
    return saved_tensors_hooks(_packed, _unpacked)


class _Call:
    """A function's call that can be made again. It lives as long as the graph that reads from it.

    torch.utils.checkpoint would not do: it makes a call again for the function's own graph, and not for those that keep its output.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        device = inputs[0].device.type
        self.function = function
        self.autocast = partial(
            torch.autocast, device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device)
        )
        # Kept by a node of the graph: where a whole layer is checkpointed, its inputs are not kept either.
        self.inputs = _Inputs.apply(torch.empty(0, requires_grad=True), *inputs).grad_fn
        self.num_kept = 0
        self.again: tuple[list[Tensor], Tensor] | None = None

    def number(self, tensor: Tensor) -> int:
        """Stands for a tensor that the function's graph would keep."""
        self.num_kept += 1
        return self.num_kept - 1

    def numbered(self, number: int) -> Tensor:
        kept, _ = self.replay()
        return kept[number]

    def replay(self) -> tuple[list[Tensor], Tensor]:
        """What the function's graph would have kept, in order, and the output."""
        if self.again is None:
            inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self.inputs.saved_tensors]
            kept: list[Tensor] = []
            # Detached, as below. No backward pass goes through this graph.
            keeping = saved_tensors_hooks(lambda tensor: kept.append(tensor.detach()), _unpacked)
            with torch.enable_grad(), self.autocast(), keeping:
                output = self.function(*inputs).detach()
            self.again = kept, output
        return self.again


class _Inputs(torch.autograd.Function):
    """Keeps tensors for the backward pass without taking part in it."""

    @staticmethod
    def forward(ctx: FunctionCtx, anchor: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return torch.empty(0)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> None:
        raise AssertionError("never reached: nothing is computed from the output")


class _Output(NamedTuple):
    """Stands for a view of a call's output."""

    call: _Call
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


def _packed(tensor: Tensor) -> Tensor | _Output:
    call = getattr(tensor.untyped_storage(), _CALL, None)
    if call is None:
        # Detached: a graph would hold itself through a tensor of its own.
        return tensor.detach()
    return _Output(call, tensor.size(), tensor.stride(), int(tensor.storage_offset()))


def _unpacked(packed: Tensor | _Output) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    _, output = packed.call.replay()
    return output.as_strided(packed.size, packed.stride, packed.offset)
