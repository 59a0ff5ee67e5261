"""Prepare: labelled samples or a preference source become prompt groups and a ledger."""

from __future__ import annotations

from tasks.job import Job

CONTENT = ("groups.safetensors", "groups.jsonl")


def run(job: Job) -> None:
    from data.prepare import PrepareConfig, prepare_labelled, prepare_source

    s = job.settings
    config = PrepareConfig(**s["prepare"])
    if "labelled" in job.inputs:
        prepare_labelled(
            job.inputs["labelled"] / "labelled.jsonl", job.inputs["model"], job.output, config, progress=job.progress
        )
    else:
        prepare_source(s["source"], job.inputs["source"], job.inputs["model"], job.output, config, progress=job.progress)
