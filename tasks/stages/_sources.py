"""Where a benchmark's items come from."""

from __future__ import annotations

from evaluation.types import hub_source
from tasks.job import Job


def benchmark_source(job: Job) -> str | None:
    """What the benchmark's `load` takes: a local path, "sample", its hub id at a commit, or None for its hub id as it is now."""
    if job.settings["source"] == "file":
        return str(job.inputs["source"])
    if job.settings["source"] == "hub" and (commit := job.settings.get("revision")) is not None:
        return hub_source(commit)
    return "sample" if job.settings["source"] == "sample" else None
