"""What the generate stage costs over a bare `LLM.generate`, and what a second replica gains: the same prompts and options, in turns.

    python -m tests.performance.generation [--model FOLDER] [--prompts 160] [--max-new-tokens 64] [--repeats 5] [--json]

All decode greedily and from an empty prefix cache. Ours includes everything that the stage does once the model is loaded: rendering
prompts, one flushed line per item in two files, progress, and putting the items in order at the end. `bare` and `ours` compute in one
engine on all cores. `one` and `two` are the stage on replicas that have half of the cores each; linear is twice the rate of one. Texts are
compared item by item.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from evaluation.engines import Engine, environment, open_engine
from evaluation.records import read_records
from tasks.execute import machine
from tasks.keys import ROOT

BENCHMARKS = ("gsm8k", "math", "crux", "mmlu_redux")
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted = environment("vllm")
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        # The engine's variables count at Python's start.
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.performance.generation", *sys.argv[1:]], {**os.environ, **wanted}
        )
    result = measure(options.model, options.prompts, options.max_new_tokens, options.repeats)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['machine']}\n")
    print("| | tokens/s, median | spread | processor seconds per 1000 tokens, median | spread |")
    print("|---|---|---|---|---|")
    for name in ("bare", "ours", "one", "two"):
        rates, costs = result["tokens_per_second"][name], result["cpu_seconds_per_1000_tokens"][name]
        print(f"| {name} | {_spread(rates, 1, ' | ')} | {_spread(costs, 2, ' | ')} |")
    print()
    for name, what in RATIOS.items():
        print(f"{what}: {_spread(result['ratios'][name], 3)}")
    for name, (equal, total) in result["equal_texts"].items():
        print(f"equal texts, {name}: {equal} of {total}")


# By pair of ways, the second of which is the base.
RATIOS = {
    "ours/bare": "ours / bare, tokens per second",
    "ours/bare cpu": "ours / bare, processor time per token",
    "two/linear": "two replicas / (2 × one), tokens per second",
    "two/one cpu": "two replicas / one, processor time per token",
}


def _spread(values: Sequence[float], digits: int, between: str = "  ") -> str:
    return f"{statistics.median(values):.{digits}f}{between}{min(values):.{digits}f} … {max(values):.{digits}f}"


@dataclass(frozen=True)
class Round:
    """One way's work on all items: its rate, its processor seconds per token, and the texts in the items' order."""

    tokens_per_second: float
    cpu_s_per_token: float
    texts: list[str]


# A way is given an empty folder, and gives the text and the number of tokens of each item.
Way = Callable[[Path], list[tuple[str, int]]]


def measure(model: Path, num_prompts: int, max_new_tokens: int, repeats: int) -> dict[str, Any]:
    """Rates of all ways, in turns within a pair, after one round of each that isn't counted; and the ratios, by pairs."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    from bnf.data.rendering import load_tokenizer, render_prompt
    from evaluation.generation.completion_cache import CompletionCache
    from evaluation.generation.generate import generate
    from evaluation.types import Sampling

    tokenizer = load_tokenizer(model)
    modules = {name: importlib.import_module(f"evaluation.benchmarks.{name}") for name in BENCHMARKS}
    items = [{**item, "benchmark": name} for name, module in modules.items() for item in module.load("sample", None)]
    items = items[:num_prompts]

    def messages(item: dict[str, Any]) -> list[dict[str, str]]:
        asked: list[dict[str, str]] = modules[item["benchmark"]].messages(item)
        return asked

    def stage(engine: Engine) -> Way:
        def run(folder: Path) -> list[tuple[str, int]]:
            cache = CompletionCache(folder / "cache.jsonl")
            generate(
                engine, tokenizer, items, messages, Sampling(max_new_tokens), folder, lambda done, total, note: None, cache
            )
            return [(one["completion"], one["num_completion_tokens"]) for one in read_records(folder / "completions.jsonl")]

        return run

    engine: Any = open_engine("vllm", model)

    def bare(folder: Path) -> list[tuple[str, int]]:
        prompts = [TokensPrompt(prompt_token_ids=render_prompt(tokenizer, messages(item))) for item in items]
        outputs = engine.llm.generate(prompts, SamplingParams(temperature=0, max_tokens=max_new_tokens), use_tqdm=False)
        return [(output.outputs[0].text, len(output.outputs[0].token_ids)) for output in outputs]

    rounds = _in_turns({"bare": bare, "ours": stage(engine)}, engine.reseed, repeats)
    version = engine.version
    engine.close()
    replicas: Any = open_engine("vllm", model, num_replicas=2)
    rounds |= _in_turns({"one": stage(replicas.alive[0]), "two": stage(replicas)}, replicas.reseed, repeats)
    replicas.close()

    def ratios(name: str, base: str, of: Callable[[Round], float], scale: float = 1.0) -> list[float]:
        return [of(mine) / of(other) / scale for mine, other in zip(rounds[name], rounds[base], strict=True)]

    def equal(name: str, base: str) -> tuple[int, int]:
        pairs = [
            (mine, other)
            for ours, theirs in zip(rounds[name], rounds[base], strict=True)
            for mine, other in zip(ours.texts, theirs.texts, strict=True)
        ]
        return sum(mine == other for mine, other in pairs), len(pairs)

    return {
        "machine": machine(),
        "model": model.name,
        "prompts": len(items),
        "max_new_tokens": max_new_tokens,
        "engine": version,
        "tokens_per_second": {name: [one.tokens_per_second for one in found] for name, found in rounds.items()},
        "cpu_seconds_per_1000_tokens": {name: [1000 * one.cpu_s_per_token for one in found] for name, found in rounds.items()},
        "ratios": {
            "ours/bare": ratios("ours", "bare", lambda one: one.tokens_per_second),
            "ours/bare cpu": ratios("ours", "bare", lambda one: one.cpu_s_per_token),
            "two/linear": ratios("two", "one", lambda one: one.tokens_per_second, 2),
            "two/one cpu": ratios("two", "one", lambda one: one.cpu_s_per_token),
        },
        "equal_texts": {"ours and bare": equal("ours", "bare"), "two and one": equal("two", "one")},
    }


def _in_turns(ways: dict[str, Way], reseed: Callable[[int], None], repeats: int) -> dict[str, list[Round]]:
    rounds: dict[str, list[Round]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        # The first of a pair changes, so that neither profits from its place.
        for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
            reseed(0)  # empties the prefix cache
            with tempfile.TemporaryDirectory() as folder:
                started_s, started_cpu_s = time.perf_counter(), _cpu_s()
                found = way(Path(folder))
                elapsed_s, cpu_s = time.perf_counter() - started_s, _cpu_s() - started_cpu_s
            num_tokens = sum(count for _, count in found)
            print(f"{name}, round {number}: {num_tokens} tokens, {elapsed_s:.1f} s, {cpu_s:.1f} processor s", file=sys.stderr)
            if number:
                rounds[name].append(Round(num_tokens / elapsed_s, cpu_s / num_tokens, [text for text, _ in found]))
    return rounds


def _cpu_s() -> float:
    """Processor seconds of this process and of its replicas, which hardly depend on what else the machine does."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (here, *here.children(recursive=True)))


if __name__ == "__main__":
    main()
