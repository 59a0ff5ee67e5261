"""What the stages that pack rows read of their settings: the rows, and where they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evaluation.records import read_json
from tasks.job import Job, Settings

if TYPE_CHECKING:
    from bnf.parallel.placement import Placement

BUDGET_FILE = "budget.json"


def max_tokens_per_row(job: Job) -> int:
    """The longest row: the recipe's number, or under `auto` the one that the stage `budget` found."""
    if "budget" in job.inputs:
        return int(read_json(job.inputs["budget"] / BUDGET_FILE)["max_tokens_per_row"])
    return int(job.settings["max_tokens_per_row"])


def placement(job: Job) -> Placement:
    """Where the stage computes. It is part of no key: one process is the default."""
    from bnf.parallel.placement import Placement

    return Placement(**{name: job.settings[name] for name in vars(Placement()) if name in job.settings})


def row_settings(job: Job, *others: str) -> Settings:
    """Those of `TrainConfig.row_settings`: all of the stage's but its placement and `others`."""
    apart = {*vars(placement(job)), *others}
    kept = {name: value for name, value in job.settings.items() if name not in apart}
    return kept | {"max_tokens_per_row": max_tokens_per_row(job)}
