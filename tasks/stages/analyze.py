"""Analyze: how the policy's likelihood of the preferred and dispreferred completions moved."""

from __future__ import annotations

from tasks.job import Job
from tasks.stages._rows import placement, row_settings

ORDER = 80
READS = {"policy": "model", "data": "prepare", "reference": "reference", "budget": "budget"}
CONTENT = ("shifts.json", "pair_shifts.jsonl")
REPORT = "shifts"
ACCELERATOR = True
MEMORY_REMEDY = "lower train.max_tokens_per_row"


def run(job: Job) -> None:
    from bnf.analysis.likelihood_shift import likelihood_shift

    likelihood_shift(
        job.inputs["policy"],
        job.inputs["data"],
        job.inputs["reference"],
        job.output,
        progress=job.progress,
        # The other nodes of a training are gone.
        placement=placement(job).of_one_node,
        **row_settings(job),
    )
