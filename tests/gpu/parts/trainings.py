"""Trainings of a tiny model, as the pipeline starts them: reference pass, step-0 check, each kernel, resume, LoRA, checkpointing,
sharding.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import Tensor

from bnf.data.groups import DEV, write_groups
from bnf.model import cuda_attention, kernels
from bnf.reference.index import read_index
from bnf.training.config import TrainConfig
from bnf.training.launch import launch
from bnf.training.own_reference import cache_for
from bnf.training.preparation import Folders
from bnf.training.summary import TrainSummary
from bnf.training.trainer import train
from tests.gpu.checks import Check, Device, Figures, Skipped
from tests.gpu.parts.families import SHAPE
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import make

# Of the weights' change, between trainings that should be one. CUDA adds in an order of its own, and Adam's first steps follow signs.
SAME = 0.02


def checks(device: Device) -> Iterator[Check]:
    yield Check("auto: step-0 check, dev samples, metrics", partial(trains, device, {}))
    yield Check("blocks", partial(trains, device, {"attention": "blocks"}))
    yield Check("a kernel that fails in the reference pass serves neither it nor the training", partial(falls_back, device))
    if device.is_cuda:
        yield Check("varlen", partial(trains, device, {"attention": "varlen", "share_prompts": False}))
        yield Check("float32", partial(trains, device, {"bf16": False}))
    yield Check("resumed after an exception", partial(resumes, device))
    yield Check("gradient checkpointing", partial(same_as_plain, device, {"gradient_checkpointing": True}))
    yield Check("LoRA", partial(trains, device, {"lora_r": 4, "learning_rate": 1e-3}))
    yield Check("sharding: full, in one process", partial(sharded, device))


@cache
def place() -> Path:
    """A folder with a model, groups and dev groups."""
    folder = Path(tempfile.mkdtemp())
    shape = SHAPE | {"initializer_range": 0.1, "eos_token_id": 2}
    make("llama", torch.float32, attention="eager", **shape).save_pretrained(folder / "model")
    write_groups(folder / "groups", random_groups(24, prompt=(20, 90), completion=(5, 40)))
    write_groups(folder / "groups" / DEV, random_groups(4, seed=1, prompt=(20, 90), completion=(5, 40)))
    return folder


def settings(device: Device, given: dict[str, Any]) -> TrainConfig:
    # On a CPU FlashAttention's stand-in would serve plain rows, and dense FlexAttention all others, in every layer of every step.
    base: dict[str, Any] = {"learning_rate": 1e-4, "max_tokens_per_row": 1024, "global_batch_size": 8, "dev_max_new_tokens": 8}
    return TrainConfig(**(base | {"max_steps": 4, "eval_steps": 4, "save_steps": 2} | given))


def ignore(done: int, total: int, note: str) -> None:
    pass


def run(
    device: Device,
    output: Path,
    given: dict[str, Any],
    progress: Callable[[int, int, str], None] = ignore,
    begin: Callable[..., TrainSummary] = train,
) -> tuple[TrainSummary, str]:
    """A reference pass and a training into `output`; the summary, and the attention implementation of the reference."""
    config = settings(device, given)
    folder = place()
    reference_dir = output / "reference"
    cache_for(config, folder / "model", folder / "groups", reference_dir, ignore)
    folders = Folders(folder / "model", folder / "groups", reference_dir, output / "training")
    summary = begin(config, folders, step0_check=True, progress=progress)
    return summary, read_index(reference_dir).identity.attention


def change(output: Path) -> dict[str, Tensor]:
    """What the training changed, by weight."""
    before = load_file(place() / "model" / "model.safetensors")
    after = load_file(output / "training" / "policy" / "model.safetensors")
    return {name: after[name].float() - before[name].float() for name in before}


def differs(first: Path, second: Path) -> float:
    ours, theirs = (torch.cat([each.flatten() for each in change(folder).values()]) for folder in (first, second))
    return float((ours - theirs).norm() / theirs.norm())


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "training" / "metrics.jsonl").read_text().splitlines()]


def trains(device: Device, given: dict[str, Any]) -> Figures:
    output = Path(tempfile.mkdtemp())
    summary, attention = run(device, output, given)
    steps = [line for line in metrics(output) if "loss" in line]
    first = steps[0]["weights/chosen"]
    assert abs(first - 1) < 1e-3, f"the weight of chosen tokens at step 0 is {first}"
    assert summary.steps == 4 and summary.reference_made_elsewhere is None and summary.reference_mismatch is None
    moved = max(float(each.abs().max()) for each in change(output).values())
    assert moved > 0
    return {"attention": attention, "first_weight_off_by": first - 1, "losses": [line["loss"] for line in steps]}


@cache
def whole(device: Device) -> Path:
    """A plain training, which others are compared with."""
    output = Path(tempfile.mkdtemp())
    run(device, output, {"bf16": False})
    return output


def same_as_plain(device: Device, given: dict[str, Any]) -> Figures:
    output = Path(tempfile.mkdtemp())
    run(device, output, {"bf16": False} | given)
    found = differs(output, whole(device))
    assert found < SAME, f"what was trained differs by {found:.2g} of the change"
    return {"differs_by": found}


def resumes(device: Device) -> Figures:
    output = Path(tempfile.mkdtemp())

    def interrupt(done: int, total: int, note: str) -> None:
        if done == 3 and total == 4 and note.startswith("steps"):
            raise InterruptedError

    try:
        run(device, output, {"bf16": False}, interrupt)
        raise AssertionError("the training must be interrupted after its third step")
    except InterruptedError:
        pass
    summary, _ = run(device, output, {"bf16": False})
    assert summary.resumed_from_step == 2, summary.resumed_from_step
    found = differs(output, whole(device))
    assert found < SAME, f"what was trained differs by {found:.2g} of the change"
    return {"differs_by": found}


def falls_back(device: Device) -> Figures:
    def broken(*arguments: object) -> Tensor:
        raise RuntimeError("out of resource: shared memory, Required: 1, Hardware limit: 0")

    kernels.failure.cache_clear()
    output = Path(tempfile.mkdtemp())
    with mock.patch.object(cuda_attention, "flex", broken):
        summary, attention = run(device, output, {})
    kernels.failure.cache_clear()
    assert attention == "bnf_segments_varlen_blocks", attention
    assert summary.reference_made_elsewhere is None
    return {"attention": attention}


def sharded(device: Device) -> Figures:
    if not device.is_cuda:
        raise Skipped("several gloo processes are tested in tests/integration")
    output = Path(tempfile.mkdtemp())
    run(device, output, {"bf16": False, "sharding": "full"}, begin=launch)
    found = differs(output, whole(device))
    assert found < SAME, f"what was trained differs by {found:.2g} of the change"
    return {"differs_by": found}
