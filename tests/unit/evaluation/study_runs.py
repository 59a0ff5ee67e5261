"""Runs of a made study: two objectives at three shares of flipped labels and three seeds, as a sweep leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from evaluation.report.study_facts import COLUMN_NAMES, Made, StudyFacts
from evaluation.report.swept import FailedRun, SweepFacts, SweptRun
from tests.unit.evaluation.report_folders import write_lines, write_object
from tests.unit.evaluation.test_sweeps import BASE, swept

NOISE = "prepare.flip_fraction"
SHARES = (0.0, 0.2, 0.4)
FACTS = SweepFacts(
    "noise", "bnf sweep noise.yaml", {"train.objective": ["bnf", "dpo"], NOISE: list(SHARES), "seed": [0, 1, 2], "x": [1]}
)
STUDY = StudyFacts("Noise", "What does noise do?", ["Labels are flipped.", "Three seeds."], COLUMN_NAMES)
MADE = Made(5400.0, ["a CPU, 2 cores, 8 GiB"], {"python": ["3.12"], "torch": ["2.9"]}, "2026-11-29")


def better(count: int) -> str:
    """So many of a hundred items more right than with the base model."""
    return "+" * count + BASE[count:]


def run(folder: Path, objective: str, share: float, seed: int, right: int, **more: object) -> SweptRun:
    """A run with every figure: its losses are 3 − step/10 ± 0.1, the norms of its gradients 1, 2, …, 10."""
    found = swept(folder, objective, seed, {"gsm8k": better(right), "crux": BASE}, settings={NOISE: share}, **more)
    assert found.train is not None
    found = replace(found, dev={**found.dev, "eval_loss": 0.6 + share})
    steps = [
        {"step": step, "loss": 3 - step / 10 + (0.1 if step % 2 else -0.1), "grad_norm": float(step)} for step in range(1, 11)
    ]
    fall = 0.1 if objective == "bnf" else 0.8
    evaluations = [
        {
            "step": step,
            "eval_loss": 1.0,
            "eval_logps/chosen": -1.0 - share * fall * step,
            "eval_logps/rejected": -2.0 - fall * step,
        }
        for step in (0, 5, 10)
    ]
    write_lines(found.train / "metrics.jsonl", [evaluations[0], *steps, *evaluations[1:]])
    shifts = {"reference": [-1.0, -1.0, -1.0, -1.0], "policy_logps": [-1.0, -1.0, -1.0, -1.0 - 4 * (1 + seed)]}
    for name, values in shifts.items():
        place = found.folder / "shifts" / name
        write_object(place / "index.json", {"rows": "r", "shards": [{"file": f"{part}.safetensors"} for part in range(2)]})
        for part in range(2):
            save_file({"logps": np.array(values[2 * part : 2 * part + 2], dtype=np.float32)}, place / f"{part}.safetensors")
    return replace(found, shifts=found.folder / "shifts", reference=found.folder / "shifts" / "reference")


def noise_study(folder: Path) -> tuple[list[SweptRun], SweepFacts]:
    """bnf gains 30, 20 and 10 points; dpo 40, 0, and at the most noise two of three trainings collapse, the third gains 5."""
    gains: Mapping[str, tuple[int, int, int]] = {"bnf": (30, 20, 10), "dpo": (40, 1, 5)}
    runs = [
        run(folder, objective, share, seed, right + seed)
        for objective, of_shares in gains.items()
        for share, right in zip(SHARES, of_shares, strict=True)
        for seed in range(3)
        if not (objective == "dpo" and share == 0.4 and seed < 2)
    ]
    failed = [
        FailedRun(
            "dpo 0.4",
            {"train.objective": "dpo", NOISE: 0.4, "seed": seed},
            "the loss must be finite",
            f"r{seed}",
            "dpo",
            seed,
            is_collapsed=True,
        )
        for seed in (0, 1)
    ]
    return runs, replace(FACTS, failed=failed)
