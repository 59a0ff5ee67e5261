"""Runs of the tiny model, as `train` is called, and what they leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bnf.training.config import TrainConfig
from bnf.training.launch import launch
from bnf.training.preparation import Folders
from bnf.training.trainer import train

BASE: dict[str, Any] = {"learning_rate": 1e-3, "max_tokens_per_row": 48, "global_batch_size": 6, "bf16": False}


def ignore(done: int, total: int, note: str) -> None:
    pass


def run(
    workplace: Path,
    output: Path,
    progress: Callable[[int, int, str], None] = ignore,
    check: bool = True,
    reference_model_dir: Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    config = TrainConfig(**(BASE | settings))
    begin = launch if config.is_launched else train
    reference_dir = workplace / f"reference_{config.bf16}"
    folders = Folders(workplace / "model", workplace / "groups", reference_dir, output, reference_model_dir)
    summary = begin(config, folders, step0_check=check, progress=progress)
    return summary.to_json()


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "policy" / "model.safetensors")


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
