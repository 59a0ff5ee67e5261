"""Measure: how far a round's policy is from the base model on its own samples, and how much it still varies."""

from __future__ import annotations

from evaluation.records import read_repaired, write_json
from tasks.job import Job

ORDER = 40
READS = {"samples": "sample", "policy": "model", "model": "model"}
CONTENT = ("divergence.json",)
ACCELERATOR = True
MEMORY_REMEDY = "lower train.max_tokens_per_row"


def run(job: Job) -> None:
    from bnf.analysis.policy_divergence import policy_divergence
    from bnf.data.groups import Completion, PromptGroup

    records = read_repaired(job.inputs["samples"] / "samples.jsonl")
    groups = [
        PromptGroup(
            record["id"],
            record["prompt_ids"],
            tuple(Completion(one["token_ids"], 1) for one in record["completions"] if one["token_ids"]),
        )
        for record in records
        if any(one["token_ids"] for one in record["completions"])
    ]
    found = policy_divergence(
        groups,
        job.inputs["policy"],
        job.inputs["model"],
        # A prompt's samples stay together, whatever the training's rows are.
        max_tokens_per_row=max(job.settings["max_tokens_per_row"], *(group.num_tokens for group in groups)),
        share_prompts=job.settings["share_prompts"],
        bf16=job.settings["bf16"],
        weights=job.settings["weights"],
        attention=job.settings["attention"],
        progress=job.progress,
    )
    write_json(job.output / "divergence.json", found.to_json(), indent=1)
