"""Generate: one model's completions of one benchmark. All benchmarks of a model share this process, and so one engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bnf.data.system_prompt import with_system_prompt
from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS, CONVERSATIONS
from evaluation.engines import ENGINES
from evaluation.generation.completion_cache import CompletionCache
from evaluation.generation.generate import COMPLETIONS_FILE, generate
from evaluation.generation.samples import generate_samples
from evaluation.generation.thinking import ThinkingEngine, thinking_engine
from evaluation.generation.turns import generate_turns
from evaluation.types import Item, Message, Sampling
from tasks.job import Job
from tasks.keys import code_digests, digest
from tasks.stages._models import markers_of, open_model
from tasks.stages._sources import benchmark_source
from tasks.stages._too_long import too_long

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
    system_prompt, markers = s.get("system_prompt"), markers_of(s, tokenizer)
    engine = thinking_engine(engine, tokenizer, markers, s.get("max_thinking_tokens"))
    if benchmark.NUM_TURNS > 1:
        conversation = load(CONVERSATIONS, s["benchmark"])
        generate_turns(
            engine, tokenizer, items, conversation, s["max_new_tokens"], job.output, job.progress, system_prompt, markers
        )
        return
    drawn = s.get("sampling")
    sampling = Sampling(
        max_new_tokens=s["max_new_tokens"],
        **({} if drawn is None else {"temperature": drawn["temperature"], "top_p": drawn["top_p"]}),
    )
    thinking = markers if isinstance(engine, ThinkingEngine) else None
    cache = CompletionCache(_cache_file(job, sampling, thinking), read=not job.refresh)

    def messages(item: Item) -> list[Message]:
        return with_system_prompt(benchmark.messages(item), system_prompt)

    if drawn is None:
        generate(engine, tokenizer, items, messages, sampling, job.output, job.progress, cache, markers)
        return
    generate_samples(
        engine,
        tokenizer,
        items,
        messages,
        sampling,
        drawn["num_samples"],
        job.output,
        job.progress,
        cache,
        markers,
        own_seeds="seeds" in load(ENGINES, s["engine"]["name"]).SUPPORTS,
    )


def outcome(output: Path) -> str | None:
    """How many prompts were too long for a completion: they are scored as without an answer."""
    return too_long(output / COMPLETIONS_FILE, "prompts", "evaluation.max_model_len")


def _cache_file(job: Job, sampling: Sampling, markers: Sequence[str] | None = None) -> Path:
    """Where completions of this model, by this engine and its code, with this decoding are kept: `artifacts/completions/`.

    Args:
        markers: Those of thoughts, where completions depend on them.
    """
    engine = job.settings["engine"]
    # With markers it is ThinkingEngine that makes the text of the engine's tokens.
    code = [f"evaluation.engines.{engine['name']}", *([] if markers is None else [ThinkingEngine.__module__])]
    decides = {
        "model": job.fingerprints["model"],
        "engine": engine,
        "code": code_digests(code),
        "sampling": dataclasses.asdict(sampling),
    }
    if markers is not None:
        decides |= {"markers": list(markers), "max_thinking_tokens": job.settings.get("max_thinking_tokens")}
    return job.output.parents[1] / "completions" / f"{digest(decides)}.jsonl"
