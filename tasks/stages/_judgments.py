"""Where judges' answers are kept."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.job import Job


def calls_file(job: Job) -> Path:
    """The home's record of what a judge was asked: beside the artifacts, as every run shares it and none may drop it."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", job.settings["judge_name"]).strip("-.")
    return job.output.parents[2] / "judgments" / f"{name}.jsonl"
