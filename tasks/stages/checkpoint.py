"""Checkpoint: a policy of a training's way, which the training kept, as a model that can be evaluated. No weights are copied."""

from __future__ import annotations

from pathlib import Path

from bnf.links import link_folder
from bnf.model.digests import model_digest
from bnf.training.choosing import policy_after, step_of
from evaluation.records import read_json, write_json
from tasks.job import Identity, Job

ORDER = 75
READS = {"training": "train"}
CONTENT = ("policy/*",)
EVALUATES = True
# Which step it is, for the report.
CHECKPOINT_FILE = "checkpoint.json"
_POLICY = "policy"


def run(job: Job) -> None:
    training, name = job.inputs["training"], job.settings["checkpoint"]
    summary = read_json(training / "train_summary.json")
    kept = summary.get("policies") or {}
    step = kept[name] if name in kept else step_of(name, 0, summary["steps"])
    folder = policy_after(training, step)
    if not folder.is_dir():
        steps = ", ".join(str(step) for step in sorted(set(kept.values()))) or "none"
        raise ValueError(
            f"evaluation.checkpoints must be steps whose policies the training kept ({steps}), got {name}; run it again with --refresh "
            "train"
        )
    link_folder(folder, job.output / _POLICY)
    write_json(job.output / CHECKPOINT_FILE, {"name": name, "step": step})


def identity(output: Path) -> Identity:
    """The artifact is a model, as a training's is."""
    return Identity(fingerprint=model_digest(output / _POLICY), model_folder=_POLICY)
