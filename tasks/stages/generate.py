"""Generate: one model's completions of one benchmark. All benchmarks of a model share this process, and so one engine."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.job import Job

CONTENT = ("completions.jsonl", "items.jsonl")
MEMORY_REMEDY = "lower evaluation.max_new_tokens, or take a smaller model"


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    from evaluation.engines import environment

    return environment(settings["engine"]["name"])


def run(job: Job) -> None:
    from evaluation._types import Sampling
    from evaluation.generate import generate
    from evaluation.generate_turns import generate_turns

    s = job.settings
    benchmark = importlib.import_module(f"evaluation.benchmarks.{s['benchmark']}")
    items = benchmark.load(benchmark_source(job), s["limit"])
    engine, tokenizer = open_model(s["engine"], job.inputs["model"], s.get("spending"))
    if hasattr(benchmark, "NUM_TURNS"):
        generate_turns(engine, tokenizer, items, benchmark, s["max_new_tokens"], job.output, job.progress)
        return
    generate(
        engine, tokenizer, items, benchmark.messages, Sampling(max_new_tokens=s["max_new_tokens"]), job.output, job.progress
    )


def benchmark_source(job: Job) -> str | None:
    """What a benchmark's `load` takes: a local path, "sample", or None for its hub id."""
    if job.settings["source"] == "file":
        return str(job.inputs["source"])
    return "sample" if job.settings["source"] == "sample" else None


def open_model(engine: Mapping[str, Any], model: Path | None, spending: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    """The engine of a node's settings with its model loaded, and the tokenizer; kept for the process's next job."""
    return _open(engine["name"], model, engine.get("base_url"), engine.get("model"), json.dumps(spending, sort_keys=True))


@functools.lru_cache(maxsize=1)
def _open(name: str, model: Path | None, base_url: str | None, served_model: str | None, spending: str) -> tuple[Any, Any]:
    from bnf.rendering import load_tokenizer
    from evaluation._spending import Meter
    from evaluation.engines import open_engine

    if name == "openai":
        assert served_model is not None
        limits = json.loads(spending) or {}
        meter = Meter.of_run(limits.get("prices"), limits.get("max_usd"))
        return open_engine(name, served_model, base_url=base_url, meter=meter), None
    assert model is not None
    return open_engine(name, model), load_tokenizer(model)
