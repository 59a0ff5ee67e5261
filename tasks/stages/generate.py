"""Generate: one model's completions of one benchmark. All benchmarks of a model share this process, and so one engine."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.worker import Job

CONTENT = ("completions.jsonl", "items.jsonl")


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    from evaluation.engines import environment

    return environment(settings["engine"]["name"])


def run(job: Job) -> None:
    from evaluation.generate import generate

    from evaluation._types import Sampling

    s = job.settings
    benchmark = importlib.import_module(f"evaluation.benchmarks.{s['benchmark']}")
    items = benchmark.load(benchmark_source(job), s["limit"])
    engine, tokenizer = _open(s["engine"]["name"], job.inputs["model"], s["engine"].get("base_url"), s["engine"].get("model"))
    generate(
        engine, tokenizer, items, benchmark.messages, Sampling(max_new_tokens=s["max_new_tokens"]), job.output, job.progress
    )


def benchmark_source(job: Job) -> str | None:
    """What a benchmark's `load` takes: a local path, "sample", or None for its hub id."""
    if job.settings["source"] == "file":
        return str(job.inputs["source"])
    return "sample" if job.settings["source"] == "sample" else None


@functools.lru_cache(maxsize=1)
def _open(name: str, model: Path, base_url: str | None, served_model: str | None) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    from evaluation.engines import open_engine

    options = {"base_url": base_url, "model": served_model} if name == "openai" else {}
    return open_engine(name, model, **options), AutoTokenizer.from_pretrained(model)
