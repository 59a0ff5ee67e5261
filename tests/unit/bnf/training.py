"""Runs of the tiny model, as `train` is called, and what they leave."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bnf.data.groups import write_groups
from bnf.reference.cache import cache_reference
from bnf.training.config import TrainConfig
from bnf.training.launch import launch
from bnf.training.preparation import Folders
from bnf.training.trainer import train
from tasks.keys import ROOT
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import make

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


def workplace_of(name: str, folder: Path, *, bf16: bool = False, tokenizer_of: Path | None = None, **changes: Any) -> Path:
    """As the fixture `workplace`, with a model of another family (`tests.unit.bnf.models`) and 12 groups."""
    model = make(name, torch.float32, attention="eager", eos_token_id=2, pad_token_id=0, **changes)
    model.save_pretrained(folder / "model")
    for file in ("tokenizer.json", "tokenizer_config.json") if tokenizer_of else ():
        shutil.copy(tokenizer_of / file, folder / "model")
    write_groups(folder / "groups", random_groups(12))
    cache_reference(
        folder / "model", folder / "groups", folder / f"reference_{bf16}", max_tokens_per_row=48, bf16=bf16, progress=ignore
    )
    return folder


def run_killed(workplace: Path, output: Path, **settings: Any) -> None:
    """As `run` in a process of its own, which is killed with its second checkpoint half written; `save_steps` must be 2."""
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from tests.unit.bnf.training import run\n"
        "save = torch.save\n"
        "def dying_save(value, path, *args, **kwargs):\n"
        "    save(value, path, *args, **kwargs)\n"
        "    if 'checkpoint-4' in str(path) and str(path).endswith('optimizer.pt'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "torch.save = dying_save\n"
        f"run(Path({str(workplace)!r}), Path({str(output)!r}), **{settings!r})\n"
    )
    process = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT)
    assert process.returncode == -signal.SIGKILL


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "policy" / "model.safetensors")


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
