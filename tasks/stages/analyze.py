"""Analyze: how the policy's likelihood of the preferred and dispreferred completions moved."""

from __future__ import annotations

from tasks.job import Job

ORDER = 80
READS = {"policy": "model", "data": "prepare", "reference": "reference"}
CONTENT = ("shifts.json",)
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
        # Those of `TrainConfig.row_settings`.
        **job.settings,
    )
