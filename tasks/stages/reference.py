"""Reference: per-token log-probabilities of all completions under the reference model, cached once for every run that shares them."""

from __future__ import annotations

from tasks.job import Job
from tasks.stages._rows import max_tokens_per_row

ORDER = 60
READS = {"model": "model", "data": "prepare", "budget": "budget"}
CONTENT = ("*.safetensors", "index.json", "dev/index.json")
ACCELERATOR = True
MEMORY_REMEDY = "lower train.max_tokens_per_row, or write auto"


def run(job: Job) -> None:
    from bnf.parallel.placement import Placement
    from bnf.reference.launch import ReferenceCall

    # Not part of the key: one process is the default.
    placement = Placement(**{name: job.settings[name] for name in vars(Placement()) if name in job.settings})
    call = ReferenceCall(
        job.inputs["model"],
        job.inputs["data"],
        job.output,
        max_tokens_per_row=max_tokens_per_row(job),
        max_groups_per_row=job.settings["max_groups_per_row"],
        share_prompts=job.settings["share_prompts"],
        bf16=job.settings["bf16"],
        weights=job.settings["weights"],
        load_in_4bit=job.settings["load_in_4bit"],
        attention=job.settings["attention"],
        kl_pairs=job.settings["mismatched"],
        placement=placement,
    )
    call.launch(job.progress)
