"""Label: a reward for every sample."""

from __future__ import annotations

import importlib

from tasks.job import Job

CONTENT = ("labelled.jsonl",)


def run(job: Job) -> None:
    labeler = importlib.import_module(f"data.labelers.{job.settings['labeler']}")
    labeler.label(
        job.inputs["samples"] / "samples.jsonl",
        job.output / "labelled.jsonl",
        benchmark=job.settings["benchmark"],
        progress=job.progress,
    )
