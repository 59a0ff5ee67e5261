"""Where a benchmark's items come from."""

from __future__ import annotations

from tasks.job import Job


def benchmark_source(job: Job) -> str | None:
    """What the benchmark's `load` takes: a local path, "sample", or None for its hub id."""
    if job.settings["source"] == "file":
        return str(job.inputs["source"])
    return "sample" if job.settings["source"] == "sample" else None
