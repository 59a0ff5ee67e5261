"""Sample: the policy's own completions of a round's prompts. Where the base model samples, its evaluation may follow in this process."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from tasks.job import Job
from tasks.stages._models import markers_of, open_model
from tasks.stages._too_long import too_long

ORDER = 20
READS = {"model": "model", "prompts": "file"}
CONTENT = ("samples.jsonl",)
RAY = True
MEMORY_REMEDY = (
    "lower sample.max_new_tokens or sample.max_model_len, take a smaller model, or with vLLM spread it over GPUs "
    "(sample.tensor_parallel_size)"
)


def run(job: Job) -> None:
    from data.sampling.sample import SampleConfig, prompts_to_complete, sample_prompts

    settings = job.settings
    local = job.inputs.get("prompts") or settings.get("urls", {}).get("prompts")
    config = SampleConfig(**{field.name: settings[field.name] for field in fields(SampleConfig) if field.name in settings})
    prompts = prompts_to_complete(config, str(local) if local is not None else settings["path"], settings["place"])
    engine, tokenizer = open_model(settings, job.inputs["model"])
    assert tokenizer is not None, "sample.engine runs the model here"
    config = replace(config, think_tokens=markers_of(settings, tokenizer))
    sample_prompts(engine, tokenizer, prompts, config, job.output, job.progress)


def outcome(output: Path) -> str | None:
    """How many prompts were too long for a sample."""
    return too_long(output / "samples.jsonl", "prompts", "sample.max_model_len")
