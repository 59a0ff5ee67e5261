"""Reference: per-token log-probabilities of all completions under the reference model, cached once for every run that shares them."""

from __future__ import annotations

from tasks.job import Job

ORDER = 60
READS = {"model": "model", "data": "prepare"}
CONTENT = ("*.safetensors", "index.json", "dev/index.json")
ACCELERATOR = True
MEMORY_REMEDY = "lower train.max_tokens_per_row"


def run(job: Job) -> None:
    from bnf.reference.cache import cache_reference

    cache_reference(
        job.inputs["model"],
        job.inputs["data"],
        job.output,
        max_tokens_per_row=job.settings["max_tokens_per_row"],
        max_groups_per_row=job.settings["max_groups_per_row"],
        share_prompts=job.settings["share_prompts"],
        bf16=job.settings["bf16"],
        attention=job.settings["attention"],
        kl_pairs=job.settings["mismatched"],
        progress=job.progress,
    )
