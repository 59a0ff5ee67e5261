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

    # The kind of device is part of the key alone.
    settings = {name: value for name, value in job.settings.items() if name != "device"}
    cache_reference(job.inputs["model"], job.inputs["data"], job.output, progress=job.progress, **settings)
