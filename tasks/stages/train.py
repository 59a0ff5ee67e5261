"""Train: the policy, aligned with the recipe's objective."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.job import Job

CONTENT = ("policy/*",)
ACCELERATOR = True
MEMORY_REMEDY = "lower train.max_tokens_per_row, or set train.gradient_checkpointing=true"
POLICY = "policy"


def run(job: Job) -> None:
    from bnf.config import TrainConfig
    from bnf.trainer import train

    train(
        TrainConfig.from_dict(job.settings),
        model_dir=job.inputs["model"],
        groups_dir=job.inputs["data"],
        reference_dir=job.inputs["reference"],
        output_dir=job.output,
        reference_model_dir=job.inputs.get("reference_model"),
        # Where the policy starts as the reference every weight of the first step must be exactly 1; in later rounds with a
        # fixed reference it doesn't.
        step0_check="reference_model" not in job.inputs,
        progress=job.progress,
    )


def identity(output: Path) -> dict[str, Any]:
    """The artifact is the policy: a model's digest is one function wherever the model comes from."""
    from bnf.digests import model_digest

    return {"fingerprint": model_digest(output / POLICY), "model_folder": POLICY}
