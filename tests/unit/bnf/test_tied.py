"""Embeddings that are also the head have one gradient. It has the same bits as the sum of two that autograd forms."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bnf.data.packing import pack
from bnf.model import logps, tied
from bnf.model.logps import row_logps
from bnf.model.tied import embed_tied, is_trained_tied
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import MODELS, make

(ROW,) = pack(random_groups(6), 400)
TIED = [name for name in MODELS if is_trained_tied(make(name))]


def gradients(model: PreTrainedModel, *, bf16: bool, prompts: bool = False) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    values = row_logps(model, ROW, bf16=bf16, prompts=prompts)
    (values.logps.sum() if values.prompt_logps is None else values.logps.sum() + values.prompt_logps.sum()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_some_families_are_tied():
    assert {"llama_tied", "gemma", "gemma3_text"} <= set(TIED)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", TIED)
def test_the_gradient_is_that_of_two(name, bf16, monkeypatch):
    """Every token of the row occurs several times, and some families scale what they look up."""
    model = make(name, torch.float32)
    for prompts in (False, True):
        ours = gradients(model, bf16=bf16, prompts=prompts)
        with monkeypatch.context() as patched:
            patched.setattr(logps, "is_trained_tied", lambda model: False)
            autograds = gradients(model, bf16=bf16, prompts=prompts)
        assert ours.keys() == autograds.keys()
        assert all(torch.equal(ours[key], autograds[key]) for key in ours)
    assert not model.get_input_embeddings().sparse


def test_the_part_of_the_embeddings_is_sparse(monkeypatch):
    seen: list[Tensor] = []
    backward = tied._Joined.backward

    def spied(ctx, of_embeddings, of_head):
        seen.extend([of_embeddings, of_head])
        return backward(ctx, of_embeddings, of_head)

    monkeypatch.setattr(tied._Joined, "backward", staticmethod(spied))
    gradients(make("llama_tied", torch.float32), bf16=False)
    assert [gradient.is_sparse for gradient in seen] == [True, False]


def test_each_gradient_alone():
    model = make("llama_tied")
    ids = torch.tensor([[3, 5, 3]])
    weight = model.get_input_embeddings().weight
    embedded, _ = embed_tied(model, ids)
    assert torch.equal(embedded, weight[ids])
    (of_lookup,) = torch.autograd.grad(embedded.sum(), weight)
    expected = torch.zeros_like(weight)
    expected[3], expected[5] = 2, 1
    assert torch.equal(of_lookup, expected)
    _, of_head = embed_tied(model, ids)
    (of_head_alone,) = torch.autograd.grad((of_head * 2).sum(), weight)
    assert torch.equal(of_head_alone, torch.full_like(weight, 2))


def test_what_is_not_trained_or_not_tied_is_left_alone():
    model = make("llama_tied")
    assert is_trained_tied(model)
    with torch.no_grad():
        assert not is_trained_tied(model)
    model.get_input_embeddings().weight.requires_grad_(False)
    assert not is_trained_tied(model)
    assert not is_trained_tied(make("llama"))
