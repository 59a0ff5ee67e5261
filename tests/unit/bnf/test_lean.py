"""Layers that keep less: the same values and gradients, fewer bytes, and nothing else of the model changed."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from bnf.lean import keep_less
from tests.unit.bnf.models import MODELS, configuration

# Many short sequences, so that neither weights nor scores are most of what is kept.
IDS = torch.arange(512).reshape(64, 8) % 32 + 1


def both(name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model as transformers has it, and the same one that keeps less."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(AutoModelForCausalLM.from_config(configuration(name), attn_implementation="eager").train())
    keep_less(models[1])
    return models[0], models[1]


def step(model: PreTrainedModel, *, bf16: bool) -> tuple[Tensor, dict[str, Tensor], int]:
    """Logits, gradients, and the bytes that were kept between forward and backward pass besides parameters."""
    kept: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        logits = model(input_ids=IDS).logits
        loss = logits.float().logsumexp(-1).sum()
    total = sum(kept.values())
    loss.backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, total


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_the_same_and_less_is_kept(name: str) -> None:
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
