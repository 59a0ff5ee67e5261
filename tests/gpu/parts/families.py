"""Every supported family on packed rows against padded eager attention: values and gradients, float32 and bfloat16.

Shared prompts go through FlexAttention, plain rows in bfloat16 through FlashAttention's variable-length kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bnf.data.packing import Row
from bnf.model.logps import row_logps
from tests.gpu.checks import Check, Device, Figures
from tests.unit.bnf.helpers import padded_logps, random_groups
from tests.unit.bnf.models import MODELS, configuration, make

# Head sizes that kernels for CUDA take, and windows that bite.
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 64, "initializer_range": 0.05}


def checks(device: Device) -> Iterator[Check]:
    # Tracing takes seconds on a CPU, whatever the shape.
    every = list(MODELS) if device.is_cuda else ["llama"]
    # Experts that a token reaches may change with its rounding.
    names = [name for name in every if not is_mixture(name)]
    for name in names:
        yield Check(f"{name}, float32, shared", partial(float32_equals_padded, device, name, True))
        yield Check(f"{name}, bfloat16, shared", partial(bfloat16_is_no_worse, device, name, True))
        yield Check(f"{name}, bfloat16, plain", partial(bfloat16_is_no_worse, device, name, False))
    if not device.is_cuda:
        yield Check("gemma2, float32, shared", partial(float32_equals_padded, device, "gemma2", True))
    yield Check("policy and reference agree before the first step", partial(agree, device))
    for name in every:
        if name not in names:
            yield Check(f"{name}, float32, shared", partial(float32_equals_padded, device, name, True))
        yield Check(f"{name}, float32, plain", partial(float32_equals_padded, device, name, False))


def is_mixture(name: str) -> bool:
    config = configuration(name).get_text_config()
    return bool(getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None))


def model_of(device: Device, name: str, attention: str = "bnf_segments") -> PreTrainedModel:
    window = {"sliding_window": 40} if getattr(configuration(name).get_text_config(), "sliding_window", None) else {}
    return make(name, torch.float32, attention=attention, **SHAPE, **window).to(device.name)  # type: ignore[arg-type]


def row_of_groups(*, share_prompts: bool) -> Row:
    groups = tuple(random_groups(5, prompt=(30, 200), completion=(5, 90), most=6))
    return replace(Row(groups, tuple(range(len(groups)))), share_prompts=share_prompts)


def gradients(model: PreTrainedModel, logps: Tensor) -> list[Tensor]:
    factors = torch.linspace(-1, 1, len(logps), device=logps.device)
    used = [parameter for parameter in model.parameters() if parameter.requires_grad]
    grads = torch.autograd.grad((factors * logps).sum(), used, allow_unused=True)
    return [grad for grad in grads if grad is not None]


def off(values: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((value - truth).norm() / truth.norm()) for value, truth in zip(values, exact, strict=True)]


def float32_equals_padded(device: Device, name: str, share_prompts: bool) -> Figures:
    row = row_of_groups(share_prompts=share_prompts)
    packed, padded = model_of(device, name), model_of(device, name, "eager")
    logps, expected = row_logps(packed, row, bf16=False).logps, padded_logps(padded, row.groups)
    torch.testing.assert_close(logps, expected, rtol=1e-4, atol=1e-4)
    worst = max(off(gradients(packed, logps), gradients(padded, expected)))
    assert worst < 1e-3, f"a gradient is off by {worst:.2g}"
    return {"logps_off_by": float((logps - expected).abs().max()), "gradients_off_by": worst}


def bfloat16_is_no_worse(device: Device, name: str, share_prompts: bool) -> Figures:
    """Than padded bfloat16, against padded float32."""
    row = row_of_groups(share_prompts=share_prompts)
    packed, padded = model_of(device, name), model_of(device, name, "eager")
    truth = padded_logps(padded, row.groups)
    exact = [truth.detach(), *gradients(padded, truth)]
    with torch.autocast(device.name, dtype=torch.bfloat16):
        eager = padded_logps(padded, row.groups).float()
    logps = row_logps(packed, row, bf16=True).logps
    ours = off([logps.detach(), *gradients(packed, logps)], exact)
    theirs = off([eager.detach(), *gradients(padded, eager)], exact)
    assert all(own <= 1.5 * peer + 1e-3 for own, peer in zip(ours, theirs, strict=True)), f"{ours} against {theirs}"
    return {"logps_off_by": ours[0], "padded_logps_off_by": theirs[0], "gradients_off_by": max(ours[1:])}


def agree(device: Device) -> Figures:
    """The step-0 assertion's tolerance on CUDA, with gradient against without."""
    found = {}
    model = model_of(device, "llama")
    for share_prompts in (True, False):
        row = row_of_groups(share_prompts=share_prompts)
        with torch.no_grad():
            reference = row_logps(model, row, bf16=True).log_odds
        policy = row_logps(model, row, bf16=True).log_odds
        mean = float((policy - reference).clamp(max=0).exp().mean())
        assert abs(mean - 1) < 1e-3, f"the mean weight is {mean}"
        found["shared" if share_prompts else "plain"] = mean - 1
    return found
