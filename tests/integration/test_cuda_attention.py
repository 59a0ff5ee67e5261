"""Packed rows on CUDA against padded eager attention there: run with `python -m pytest -m gpu` on a machine that has one.

Shared prompts go through FlexAttention, plain rows in bfloat16 through FlashAttention's variable-length kernel.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bnf.data.groups import PromptGroup
from bnf.data.packing import Row
from bnf.model.logps import row_logps
from tests.unit.bnf.helpers import padded_logps, random_groups
from tests.unit.bnf.models import make

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

# Head sizes that kernels for CUDA take, and windows that bite.
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 64, "initializer_range": 0.05}
NAMES = ["llama", "mistral_window", "qwen2_window", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3"]


def model_of(name: str, attention: str = "bnf_segments") -> PreTrainedModel:
    window = {"sliding_window": 40} if "window" in name or name in ("gemma2", "gemma3_text", "gemma3", "gpt_oss") else {}
    return make(name, torch.float32, attention=attention, **SHAPE, **window).cuda()


def row_of_groups() -> Row:
    groups = tuple(random_groups(5, prompt=(30, 200), completion=(5, 90), most=6))
    return Row(groups, tuple(range(len(groups))))


def gradients(model: PreTrainedModel, logps: Tensor) -> list[Tensor]:
    factors = torch.linspace(-1, 1, len(logps), device=logps.device)
    used = [parameter for parameter in model.parameters() if parameter.requires_grad]
    grads = torch.autograd.grad((factors * logps).sum(), used, allow_unused=True)
    return [grad for grad in grads if grad is not None]


def off(values: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((value - truth).norm() / truth.norm()) for value, truth in zip(values, exact, strict=True)]


@pytest.mark.parametrize("share_prompts", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("name", [*NAMES, "mixtral", "qwen3_moe", "gpt_oss"])
def test_float32_equals_padded(name: str, share_prompts: bool) -> None:
    row = replace(row_of_groups(), share_prompts=share_prompts)
    packed, padded = model_of(name), model_of(name, "eager")
    logps, expected = row_logps(packed, row, bf16=False).logps, padded_logps(padded, row.groups)
    torch.testing.assert_close(logps, expected, rtol=1e-4, atol=1e-4)
    assert max(off(gradients(packed, logps), gradients(padded, expected))) < 1e-3


@pytest.mark.parametrize("share_prompts", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_no_worse_than_padded_bfloat16(name: str, share_prompts: bool) -> None:
    row = replace(row_of_groups(), share_prompts=share_prompts)
    packed, padded = model_of(name), model_of(name, "eager")
    truth = padded_logps(padded, row.groups)
    exact = [truth.detach(), *gradients(padded, truth)]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        eager = padded_logps(padded, row.groups).float()
    logps = row_logps(packed, row, bf16=True).logps
    ours = off([logps.detach(), *gradients(packed, logps)], exact)
    theirs = off([eager.detach(), *gradients(padded, eager)], exact)
    assert all(own <= 1.5 * peer + 1e-3 for own, peer in zip(ours, theirs, strict=True))


def test_rows_of_many_lengths_are_compiled_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its limit of recompilations torch would go on with the unfused kernel, whose memory grows with the row's square."""
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    model = model_of("gemma2")
    for seed in range(20):
        groups: tuple[PromptGroup, ...] = tuple(random_groups(3, seed=seed, prompt=(20, 300), completion=(5, 90)))
        row_logps(model, Row(groups, (0, 1, 2)), bf16=True).logps.sum().backward()


@pytest.mark.parametrize("share_prompts", [True, False], ids=["shared", "plain"])
def test_policy_and_reference_agree_before_the_first_step(share_prompts: bool) -> None:
    """The step-0 assertion's tolerance on CUDA, with gradient against without."""
    row = replace(row_of_groups(), share_prompts=share_prompts)
    model = model_of("llama")
    with torch.no_grad():
        reference = row_logps(model, row, bf16=True).log_odds
    policy = row_logps(model, row, bf16=True).log_odds
    assert abs(float((policy - reference).clamp(max=0).exp().mean()) - 1) < 1e-3
