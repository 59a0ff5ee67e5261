"""Contamination: which of a benchmark's items the training data contain."""

from __future__ import annotations

from tasks.job import Job
from tasks.stages._sources import benchmark_source

ORDER = 140
READS = {"data*": "prepare", "source": "file"}
CONTENT = ("contamination.json", "contamination.jsonl")
EVALUATES = True
REPORT = "contamination"
# Texts are compared, not token ids.
LEAVES_OUT = ("*.safetensors",)


def run(job: Job) -> None:
    from data.contamination import check_contamination

    # Of several rounds each has data of its own.
    folders = [folder for role, folder in job.inputs.items() if role.startswith("data")]
    check_contamination(folders, job.settings["benchmark"], benchmark_source(job), job.output, progress=job.progress)
