"""Reference: per-token log-probabilities of all completions under the reference model, cached once for every run that shares them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.job import Job

CONTENT = ("*.safetensors", "index.json", "dev/index.json")
ACCELERATOR = True
MEMORY_REMEDY = "lower train.max_tokens_per_row"


def check_data(settings: Mapping[str, Any], data: Path) -> None:
    """Looks at the data as soon as they are there: a row must hold the longest group."""
    from bnf.longest import check_longest

    check_longest(data, max_tokens_per_row=settings["max_tokens_per_row"], share_prompts=settings["share_prompts"])


def run(job: Job) -> None:
    from bnf.reference import cache_reference

    cache_reference(
        job.inputs["model"],
        job.inputs["data"],
        job.output,
        max_tokens_per_row=job.settings["max_tokens_per_row"],
        max_groups_per_row=job.settings["max_groups_per_row"],
        share_prompts=job.settings["share_prompts"],
        bf16=job.settings["bf16"],
        mismatched=job.settings["mismatched"],
        progress=job.progress,
    )
