"""Judge: games between the aligned model's answers and the base model's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.worker import Job

CONTENT = ("games.jsonl", "summary.json")


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    from evaluation.engines import environment

    return environment(settings["engine"]["name"])


def run(job: Job) -> None:
    from evaluation.judges.pairwise import judge

    judge(job)
