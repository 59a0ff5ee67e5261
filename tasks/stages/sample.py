"""Sample: the policy's own completions of the training prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.job import Job

CONTENT = ("samples.jsonl",)
MEMORY_REMEDY = "lower sample.max_new_tokens, or take a smaller model"


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    from evaluation.engines import environment

    return environment(settings["engine"]["name"])


def run(job: Job) -> None:
    from data.sample import sample

    s = job.settings
    sample(
        model_dir=job.inputs["model"],
        output_dir=job.output,
        source=s["source"],
        num_prompts=s["num_prompts"],
        samples_per_prompt=s["samples_per_prompt"],
        temperature=s["temperature"],
        top_p=s["top_p"],
        max_new_tokens=s["max_new_tokens"],
        seed=s["seed"],
        engine=s["engine"]["name"],
        progress=job.progress,
    )
