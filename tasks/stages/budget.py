"""Budget: the largest row that fits into memory, where the recipe says `max_tokens_per_row: auto`.

Its output is the number alone. So the stages that read it have the same keys on every machine that finds the same number.
"""

from __future__ import annotations

from pathlib import Path

from evaluation.records import read_json, write_json
from tasks.job import Job
from tasks.stages._rows import BUDGET_FILE

ORDER = 55
READS = {"model": "model", "data": "prepare"}
CONTENT = (BUDGET_FILE,)
ACCELERATOR = True


def run(job: Job) -> None:
    from bnf.training.budget import find_budget
    from bnf.training.config import TrainConfig

    config = TrainConfig.from_dict(job.settings["train"])
    found = find_budget(config, job.inputs["model"], job.inputs["data"], job.output, job.progress)
    write_json(job.output / BUDGET_FILE, {"max_tokens_per_row": found})


def outcome(output: Path) -> str:
    """The row that was found."""
    tokens = read_json(output / BUDGET_FILE)["max_tokens_per_row"]
    return f"rows of {tokens:,} tokens fit (train.max_tokens_per_row=auto); the trials are in {output / 'trials.json'}"
