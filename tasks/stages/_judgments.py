"""Where the answers of judges are kept."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.job import Job


def calls_file(job: Job) -> Path:
    """The file with all answers of a judge. It lies beside the artifacts: all runs share it, and `bnf gc` keeps it."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", job.settings["judge_name"]).strip("-.")
    return job.output.parents[2] / "judgments" / f"{name}.jsonl"
