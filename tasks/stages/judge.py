"""Judge: games between the aligned model's answers and the base model's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.job import Job
from tasks.stages.generate import open_model

CONTENT = ("games.jsonl", "summary.json")
ACCELERATOR = True
MEMORY_REMEDY = "lower judge.max_new_tokens, or take a smaller judge"


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    from evaluation.engines import environment

    return environment(settings["engine"]["name"])


def run(job: Job) -> None:
    from evaluation.judges.pairwise import judge

    s = job.settings
    engine, tokenizer = open_model(s["engine"], job.inputs.get("judge"))
    judge(
        engine,
        tokenizer,
        judge_name=s["judge_name"],
        questions=_lines(job.inputs["candidate"] / "items.jsonl"),
        candidate_name="aligned",
        candidate=_answers(job.inputs["candidate"]),
        baseline_name="base",
        baseline=_answers(job.inputs["baseline"]),
        output_dir=job.output,
        progress=job.progress,
        demonstration=s["demonstration"],
    )


def _answers(generations: Path) -> dict[str, str]:
    return {record["id"]: record["completion"] for record in _lines(generations / "completions.jsonl")}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
