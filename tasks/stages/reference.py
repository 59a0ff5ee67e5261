"""Reference: per-token log-probabilities of all completions under the reference model, cached once for every run that shares them."""

from __future__ import annotations

from tasks.job import Job

CONTENT = ("*.safetensors", "index.json", "dev/index.json")
ACCELERATOR = True
MEMORY_REMEDY = "lower train.max_tokens_per_row"


def run(job: Job) -> None:
    from bnf.groups import read_groups
    from bnf.packing import pack, rows_per_step
    from bnf.reference import cache_reference

    # What training would refuse is refused before the pass, not after it.
    rows = pack(
        read_groups(job.inputs["data"]), job.settings["max_tokens_per_row"], share_prompts=job.settings["share_prompts"]
    )
    rows_per_step(rows, job.settings["global_batch_size"])
    cache_reference(
        job.inputs["model"],
        job.inputs["data"],
        job.output,
        max_tokens_per_row=job.settings["max_tokens_per_row"],
        share_prompts=job.settings["share_prompts"],
        bf16=job.settings["bf16"],
        mismatched=job.settings["mismatched"],
        progress=job.progress,
    )
