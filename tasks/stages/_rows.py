"""The longest row of a stage that packs rows: the recipe's number, or under `auto` the one that the stage `budget` found."""

from __future__ import annotations

from evaluation.records import read_json
from tasks.job import Job

BUDGET_FILE = "budget.json"


def max_tokens_per_row(job: Job) -> int:
    """The stage's `max_tokens_per_row`."""
    if "budget" in job.inputs:
        return int(read_json(job.inputs["budget"] / BUDGET_FILE)["max_tokens_per_row"])
    return int(job.settings["max_tokens_per_row"])
