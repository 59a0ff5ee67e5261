"""Train: the policy, aligned with the recipe's objective.

Its key counts what decides the policy, and whether there is one: rows, losses, the update, the step-0 check, the rules of a collapse and
what they look at. What is only logged or summed up (metrics.jsonl, train_summary.json) does not count: it changes no weight, and only the
report and `not_done_again` read it. `SHOWS_OR_REFUSES` in `tasks/keys.py` lists the modules. `bnf.training.worker` does not count either:
it only carries the call to one of several processes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bnf.model.digests import model_digest
from bnf.model.served import write_alignment
from bnf.training.choosing import num_kept
from tasks.job import Identity, Job, Settings
from tasks.stages._rows import max_tokens_per_row

ORDER = 70
READS = {
    **{"model": "model", "data": "prepare", "reference": "reference", "reference_model": "model", "budget": "budget"},
    # Log-probabilities of the model that it starts from, where the reference is another.
    "old": "reference",
    # Those of the base model, from which shifts are measured, where the recipe names another reference; and that model in later rounds.
    **{"base": "reference", "base_model": "model"},
}
CONTENT = ("policy/*",)
REPORT = "train"
ACCELERATOR = True
MEMORY_REMEDY = "lower train.max_tokens_per_row or write auto, or set train.gradient_checkpointing=true"
POLICY = "policy"


def run(job: Job) -> None:
    from bnf.model.threads import restored_threads
    from bnf.training.config import TrainConfig
    from bnf.training.fields import DERIVED_FIELDS
    from bnf.training.launch import launch
    from bnf.training.preparation import Folders
    from bnf.training.trainer import train

    uncounted = (*DERIVED_FIELDS, "checkpoints", "conversations")
    config = TrainConfig.from_dict({name: value for name, value in job.settings.items() if name not in uncounted})
    config = replace(config, max_tokens_per_row=max_tokens_per_row(job))
    inputs = job.inputs
    model, data, reference = inputs["model"], inputs["data"], inputs["reference"]
    others = (inputs.get(role) for role in ("reference_model", "old", "base", "base_model"))
    folders = Folders(model, data, reference, job.output, *others)
    begin = launch if config.is_launched else train
    # In later rounds with a fixed reference, and with a reference of the recipe's choice, the policy doesn't start as the reference.
    # It takes as many threads as the reference pass had.
    with restored_threads():
        begin(
            config,
            folders,
            step0_check="reference_model" not in inputs and "base" not in inputs,
            progress=job.progress,
            checkpoints=job.settings.get("checkpoints", ()),
        )
    if "conversations" in job.settings:
        for folder in (job.output / POLICY, *sorted((job.output / "policies").glob("step-*"))):
            write_alignment(folder, **job.settings["conversations"])


def disk_bytes(inputs: Mapping[str, Path], settings: Settings) -> int:
    """A checkpoint holds float32 weights and two moments: six times bfloat16 weights, and one more for each policy."""
    kept = num_kept(settings.get("checkpoints", ()), settings.get("keep_best", "none"))
    return (7 + kept) * sum(file.stat().st_size for file in inputs["model"].glob("*.safetensors"))


def not_done_again(settings: Settings, output: Path) -> str | None:
    """Which loggers the settings ask for that a complete training did not log to, in words; None where there are none."""
    asked = settings.get("report_to", "none")
    asked = {asked} if isinstance(asked, str) else set(asked)
    if not asked - {"none"}:
        return None
    logged = json.loads((output / "train_summary.json").read_text()).get("report_to", [])
    new = sorted(asked - {"none", *logged})
    if not new:
        return None
    return f"the training is complete, and nothing is logged anew to {', '.join(new)}; --refresh train trains again and logs"


def identity(output: Path) -> Identity:
    """The artifact is the policy: a model's digest is one function wherever the model comes from."""
    return Identity(fingerprint=model_digest(output / POLICY), model_folder=POLICY)
