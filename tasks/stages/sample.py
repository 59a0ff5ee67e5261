"""Sample: the policy's own completions of a round's prompts."""

from __future__ import annotations

from dataclasses import fields

from evaluation.engines import opening_options
from tasks.job import Job

ORDER = 20
READS = {"model": "model", "prompts": "file"}
CONTENT = ("samples.jsonl",)
RAY = True
MEMORY_REMEDY = (
    "lower sample.max_new_tokens or sample.max_model_len, take a smaller model, or with vLLM spread it over GPUs "
    "(sample.tensor_parallel_size)"
)


def run(job: Job) -> None:
    from data.sampling.sample import SampleConfig, sample

    settings = job.settings
    local = job.inputs.get("prompts")
    sample(
        SampleConfig(**{field.name: settings[field.name] for field in fields(SampleConfig)}),
        model_dir=job.inputs["model"],
        output_dir=job.output,
        path=str(local) if local is not None else settings["path"],
        place=settings["place"],
        engine=settings["engine"]["name"],
        load_options=opening_options(settings),
        progress=job.progress,
    )
