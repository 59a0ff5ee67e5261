"""Analyze: how the policy's likelihood of the preferred and dispreferred completions moved."""

from __future__ import annotations

from tasks.job import Job
from tasks.stages._rows import max_tokens_per_row

ORDER = 80
READS = {"policy": "model", "data": "prepare", "reference": "reference", "budget": "budget"}
CONTENT = ("shifts.json",)
REPORT = "shifts"
ACCELERATOR = True
MEMORY_REMEDY = "lower train.max_tokens_per_row"


def run(job: Job) -> None:
    from bnf.analysis.likelihood_shift import likelihood_shift
    from bnf.parallel.placement import Placement

    # Not part of the key. The other nodes of a training are gone.
    placement = Placement(**{name: value for name, value in job.settings.items() if name in vars(Placement())}).of_one_node
    likelihood_shift(
        job.inputs["policy"],
        job.inputs["data"],
        job.inputs["reference"],
        job.output,
        progress=job.progress,
        placement=placement,
        # Those of `TrainConfig.row_settings`.
        **{
            **{name: value for name, value in job.settings.items() if name not in vars(placement)},
            "max_tokens_per_row": max_tokens_per_row(job),
        },
    )
