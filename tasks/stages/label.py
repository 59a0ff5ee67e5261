"""Label: a reward for every sample."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from tasks.job import Job
from tasks.stages._judgments import calls_file

CONTENT = ("labelled.jsonl",)


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    from evaluation.engines import environment

    if "engine" not in settings:
        return {}
    # A reward model runs in transformers.
    return environment({"reward_model": "transformers"}.get(settings["engine"]["name"], settings["engine"]["name"]))


def run(job: Job) -> None:
    labeler = importlib.import_module(f"data.labelers.{job.settings['labeler']}")
    files = (job.inputs["samples"] / "samples.jsonl", job.output / "labelled.jsonl")
    if not hasattr(labeler, "open_judge"):
        given = {"path": job.inputs["file"]} if "file" in job.inputs else {}
        labeler.label(*files, benchmark=job.settings["benchmark"], progress=job.progress, **given)
        return
    judge = labeler.open_judge(job.settings, job.inputs.get("judge"), job.fingerprints.get("judge"))
    labeler.label(*files, judge=judge, calls_file=calls_file(job), fresh=job.refresh, progress=job.progress)
