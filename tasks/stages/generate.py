"""Generate: one model's completions of one benchmark. All benchmarks of a model share this process, and so one engine."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS, CONVERSATIONS
from evaluation.engines import Engine, is_remote, open_engine, opening_options
from evaluation.generation.completion_cache import CompletionCache
from evaluation.generation.generate import generate
from evaluation.generation.turns import generate_turns
from evaluation.spending import Meter
from evaluation.types import Sampling
from tasks.job import Job, Settings
from tasks.keys import code_digests, digest
from tasks.stages._sources import benchmark_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ORDER = 90
READS = {"model": "model", "source": "file"}
CONTENT = ("completions.jsonl", "items.jsonl", "left_out.json")
EVALUATES = True
REPORT = "generations"
RAY = True
MEMORY_REMEDY = (
    "lower evaluation.max_new_tokens or evaluation.max_model_len, take a smaller model, or with vLLM spread it over GPUs "
    "(evaluation.tensor_parallel_size)"
)


def run(job: Job) -> None:
    s = job.settings
    benchmark = load(BENCHMARKS, s["benchmark"])
    items = benchmark.load(benchmark_source(job), s["limit"])
    engine, tokenizer = open_model(s, job.inputs["model"])
    if benchmark.NUM_TURNS > 1:
        conversation = load(CONVERSATIONS, s["benchmark"])
        generate_turns(engine, tokenizer, items, conversation, s["max_new_tokens"], job.output, job.progress)
        return
    sampling = Sampling(max_new_tokens=s["max_new_tokens"])
    cache = CompletionCache(_cache_file(job, sampling), read=not job.refresh)
    generate(engine, tokenizer, items, benchmark.messages, sampling, job.output, job.progress, cache)


def _cache_file(job: Job, sampling: Sampling) -> Path:
    """Where completions of this model, by this engine and its code, with this decoding are kept: `artifacts/completions/`."""
    engine = job.settings["engine"]
    decides = {
        "model": job.fingerprints["model"],
        "engine": engine,
        "code": code_digests([f"evaluation.engines.{engine['name']}"]),
        "sampling": dataclasses.asdict(sampling),
    }
    return job.output.parents[1] / "completions" / f"{digest(decides)}.jsonl"


def open_model(settings: Settings, model: Path | None) -> tuple[Engine, PreTrainedTokenizerBase | None]:
    """The engine of a node's settings with its model loaded, and the tokenizer; both are kept for the process's next job.

    An engine that is an endpoint has no tokenizer here.
    """
    decides = ("engine", "engine_placement", "ray", "date", "spending")
    return _open(json.dumps({name: settings[name] for name in decides if name in settings}, sort_keys=True), model)


@functools.lru_cache(maxsize=1)
def _open(settings: str, model: Path | None) -> tuple[Engine, PreTrainedTokenizerBase | None]:
    from bnf.data.rendering import load_tokenizer

    given = json.loads(settings)
    engine = given["engine"]
    if is_remote(engine["name"]):
        limits = given.get("spending") or {}
        meter = Meter.of_run(limits.get("prices"), limits.get("max_usd"))
        return open_engine(engine["name"], engine["model"], base_url=engine["base_url"], meter=meter), None
    assert model is not None
    return open_engine(engine["name"], model, **opening_options(given)), load_tokenizer(model, given["date"])
