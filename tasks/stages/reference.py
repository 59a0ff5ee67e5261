"""Reference: per-token log-probabilities of all completions under the reference model, cached once for every run that shares them."""

from __future__ import annotations

from tasks.job import Job
from tasks.stages._rows import placement, row_settings

ORDER = 60
READS = {
    **{"model": "model", "data": "prepare", "budget": "budget"},
    # The base model, whose tokenizer made the data's ids, where the reference is another model.
    "tokenizer": "model",
}
CONTENT = ("*.safetensors", "index.json", "ches.jsonl", "dev/index.json", "dev/ches.jsonl")
ACCELERATOR = True
RAY = True
MEMORY_REMEDY = "lower train.max_tokens_per_row, or write auto"


def run(job: Job) -> None:
    from bnf.model.threads import restored_threads
    from bnf.reference.launch import ReferenceCall

    if "tokenizer" in job.inputs:
        from bnf.data.same_tokenizer import check_same_tokenizer

        check_same_tokenizer(job.inputs["tokenizer"], job.inputs["model"], job.inputs["data"])
    call = ReferenceCall(
        job.inputs["model"],
        job.inputs["data"],
        job.output,
        kl_pairs=job.settings["mismatched"],
        # They say what training will do to the model that it starts from. Another one's say nothing; the base model's are what shifts
        # are compared with, also in later rounds: whose they are is said where they are shown.
        ches="tokenizer" not in job.inputs,
        placement=placement(job),
        **row_settings(job, "mismatched", "device"),
    )
    # One that goes on takes as many threads as it began with.
    with restored_threads():
        call.launch(job.progress)
