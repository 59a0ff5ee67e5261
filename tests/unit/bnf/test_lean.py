"""Layers that keep less: the same values and gradients, fewer bytes, and nothing else of the model changed."""

import gc
import weakref
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bnf.data.packing import Row
from bnf.model.experts import EXPERTS
from bnf.model.families import is_mixture
from bnf.model.lean import keep_less, replayable, replaying
from bnf.model.logps import row_logps
from bnf.training.adapters import add_adapter
from bnf.training.config import TrainConfig
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import MODELS, configuration, make
from tests.unit.bnf.training import BASE

# Many short sequences, so that neither weights nor scores are most of what is kept.
IDS = torch.arange(512).reshape(64, 8) % 32 + 1


def both(name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model as transformers has it, and the same one that keeps less."""
    models = []
    for experts in (None, EXPERTS):
        torch.manual_seed(0)
        settings = {"attn_implementation": "eager", "experts_implementation": experts}
        models.append(AutoModelForCausalLM.from_config(configuration(name), **settings).train())
    keep_less(models[1])
    return models[0], models[1]


def step(model: PreTrainedModel, *, bf16: bool) -> tuple[Tensor, dict[str, Tensor], int]:
    """Logits, gradients, and the bytes that were kept between forward and backward pass besides parameters."""
    kept: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    hooks = replaying()

    def keep(tensor: Tensor) -> Any:
        packed = hooks.pack_hook(tensor)
        storage = tensor.untyped_storage()
        if isinstance(packed, Tensor) and storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return packed

    autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
    with saved_tensors_hooks(keep, hooks.unpack_hook), autocast:
        logits = model(input_ids=IDS).logits
        loss = logits.float().logsumexp(-1).sum()
    total = sum(kept.values())
    loss.backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, total


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_the_same_and_less_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers gives the tokens of an expert in no certain order.
    monkeypatch.setattr(torch, "sort", partial(torch.sort, stable=True))
    plain, lean = both(name)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in lean.named_parameters()]
    assert {type(module).__name__ for module in plain.modules()} == {type(module).__name__ for module in lean.modules()}
    (logits, gradients, kept), (lean_logits, lean_gradients, lean_kept) = (step(model, bf16=False) for model in (plain, lean))
    assert torch.equal(logits, lean_logits) and lean_kept < kept
    assert gradients.keys() == lean_gradients.keys()
    for parameter, gradient in gradients.items():
        assert torch.equal(gradient, lean_gradients[parameter]), parameter


def test_in_bf16_the_projections_share_one_copy_of_their_input() -> None:
    plain, lean = both("llama")
    (logits, gradients, kept), (lean_logits, lean_gradients, lean_kept) = (step(model, bf16=True) for model in (plain, lean))
    assert torch.equal(logits, lean_logits) and lean_kept < 0.8 * kept
    exact = step(both("llama")[0].double(), bf16=False)[1]
    for parameter, gradient in gradients.items():
        off, lean_off = ((one - exact[parameter]).norm() for one in (gradient, lean_gradients[parameter]))
        assert lean_off < 1.25 * off, parameter


@pytest.mark.parametrize("name", [name for name in MODELS if not is_mixture(configuration(name))])
def test_in_bf16_values_are_the_same_too(name: str) -> None:
    """What projections share is rounded as autocast rounds it for each of them. transformers' own experts are not rounded at all."""
    plain, lean = both(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(input_ids=IDS).logits, lean(input_ids=IDS).logits)


@pytest.mark.parametrize("bf16", [False, True])
def test_of_a_layer_only_what_comes_from_matrix_products_and_the_residual_stream_is_kept(bf16: bool) -> None:
    """Doubling the width of the MLP adds what its gate and its other projection give, and not their product."""
    size = 2 if bf16 else 4
    kept = []
    for width in (40, 80):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(configuration("llama", intermediate_size=width), attn_implementation="eager")
        keep_less(model.train())
        kept.append(step(model, bf16=bf16)[2])
    # Autocast's copies of the three weights are not kept either.
    assert kept[1] - kept[0] == 2 * IDS.numel() * 2 * 40 * size


# The bytes that a layer keeps of a token in bf16, the inner part of its attention aside: of the hidden size D, all heads' queries Q and
# keys K, and the MLP's width F. Llama keeps 416 of transformers' 1016.
D, Q, K, F = 24, 32, 16, 40
KEPT = {
    # Two inputs of norms in float32; attention's output; the gate's two factors.
    "llama": 8 * D + 2 * Q + 4 * F,
    "granite": 8 * D + 2 * Q + 4 * F,
    "smollm3": 8 * D + 2 * Q + 4 * F,
    # One projection gives both factors.
    "glm": 8 * D + 2 * Q + 4 * F,
    # Beside them the inputs of the norms after attention and MLP.
    "glm4": 8 * D + 2 * Q + 4 * F + 4 * D,
    "gemma2": 8 * D + 2 * Q + 4 * F + 4 * D,
    # The inputs of the norms of queries and keys.
    "qwen3": 8 * D + 2 * Q + 4 * F + 2 * (Q + K),
    # No norm before attention and MLP: the residual stream as the projections read it.
    "olmo2": 4 * D + 2 * Q + 4 * F + 4 * D + 2 * (Q + K),
    "exaone4": 4 * D + 2 * Q + 4 * F + 4 * D + 2 * (Q + K),
    # One norm for attention and MLP.
    "cohere": 4 * D + 2 * Q + 4 * F,
    # No gate.
    "arcee": 8 * D + 2 * Q + 2 * F,
}


class _Keepless(torch.autograd.Function):
    """Stands for attention, and keeps nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.shapes = query.shape, key.shape, value.shape
        return query.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(grad.new_zeros(shape) for shape in ctx.shapes)


def keepless(_module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **_kwargs: Any) -> tuple[Tensor, None]:
    return _Keepless.apply(query.bfloat16(), key.bfloat16(), value.bfloat16()), None


@pytest.mark.parametrize("name", KEPT)
def test_bytes_per_token_and_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ALL_ATTENTION_FUNCTIONS.register("keepless", keepless)
    kept = []
    for num_layers in (2, 4):
        changes: dict[str, Any] = {"num_hidden_layers": num_layers}
        if "layer_types" in MODELS[name][1]:
            changes["layer_types"] = ["full_attention"] * num_layers
        if name == "smollm3":
            changes["no_rope_layers"] = [1, 0] * (num_layers // 2)
        model = AutoModelForCausalLM.from_config(configuration(name, **changes), attn_implementation="keepless")
        keep_less(model.train())
        kept.append(step(model, bf16=True)[2])
    assert (kept[1] - kept[0]) / 2 / IDS.numel() == pytest.approx(KEPT[name], abs=1)


def test_adapters_learn_the_same() -> None:
    gradients = []
    for model in both("llama"):
        adapted = add_adapter(model, TrainConfig(**(BASE | {"lora_r": 2, "lora_target_modules": "all-linear"})))
        generator = torch.Generator().manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator)
        gradients.append(step(adapted, bf16=False)[1])
    plain, lean = gradients
    assert len(plain) == 2 * 7 * 2 and plain.keys() == lean.keys()
    assert all(gradient.any() and torch.equal(gradient, lean[name]) for name, gradient in plain.items())


def test_a_second_backward_pass_gives_the_same() -> None:
    _, model = both("llama")
    with replaying():
        loss = model(input_ids=IDS).logits.logsumexp(-1).sum()
    first, second = (torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


class _Witness:
    """Lives as long as the memory that it is tied to."""


def witness(of: Tensor) -> "weakref.ref[_Witness]":
    one = _Witness()
    of.untyped_storage().witness = one  # type: ignore[attr-defined]
    return weakref.ref(one)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_what_was_kept_is_freed(name: str, checkpointing: bool) -> None:
    """Before the backward pass where whole layers are checkpointed, by it, and without it when the results go."""
    model = make(name, torch.float32).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    witnesses: list[Any] = []
    for layer in model.get_decoder().layers:
        for module in (layer.input_layernorm, layer.mlp.gate_proj, layer.mlp.up_proj):
            module.register_forward_hook(lambda _module, _inputs, output: witnesses.append(witness(output)))
    row = Row(tuple(random_groups(3)), (0, 1, 2))

    def alive() -> int:
        gc.collect()
        return sum(each() is not None for each in witnesses)

    values = row_logps(model, row, bf16=True)
    # The norms' outputs are gone; those of two projections are there, in two layers.
    assert len(witnesses) == 6 and alive() == (0 if checkpointing else 4)
    del values
    assert alive() == 0
    values = row_logps(model, row, bf16=True)
    values.logps.sum().backward()
    assert alive() == 0


def test_without_replaying_the_output_is_kept_and_nothing_between() -> None:
    inputs = torch.randn(4, requires_grad=True)
    between: list[Any] = []

    def function(tensor: Tensor) -> Tensor:
        first = tensor.exp()
        between.append(witness(first))
        return first.sin()

    output = replayable(function, inputs * 1)
    assert between[0]() is None
    output.square().sum().backward()
    expected = 2 * inputs.exp().sin() * inputs.exp().cos() * inputs.exp()
    torch.testing.assert_close(inputs.grad, expected.detach())
