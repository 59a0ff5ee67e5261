"""What the generate stage costs over a bare `LLM.generate`: the same prompts, the same engine, in turns.

    python -m tests.performance.generation [--model FOLDER] [--prompts 160] [--max-new-tokens 64] [--repeats 5] [--json]

Both decode greedily and from an empty prefix cache. Ours includes everything that the stage does once the model is loaded: rendering
prompts, one flushed line per item in two files, progress, and putting the items in order at the end.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluation.engines import environment, open_engine
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
    print("| | tokens/s, median | spread |")
    print("|---|---|---|")
    for name in ("bare", "ours"):
        rates = result[f"{name}_tokens_per_second"]
        print(f"| {name} | {statistics.median(rates):.1f} | {min(rates):.1f} … {max(rates):.1f} |")
    for name, what in (("ratio", "ours / bare, tokens per second"), ("cpu_ratio", "ours / bare, processor time per token")):
        pairs = result[f"{name}s"]
        print(f"{what}: {result[name]:.3f} ({min(pairs):.3f} … {max(pairs):.3f})")


def measure(model: Path, num_prompts: int, max_new_tokens: int, repeats: int) -> dict[str, Any]:
    """Rates of both ways in turns, after one round of each that isn't counted; and the ratio, by pairs."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    from bnf.data.rendering import load_tokenizer, render_prompt
    from evaluation.generation.completion_cache import CompletionCache
    from evaluation.generation.generate import generate
    from evaluation.types import Sampling

    engine, tokenizer = open_engine("vllm", model), load_tokenizer(model)
    modules = {name: importlib.import_module(f"evaluation.benchmarks.{name}") for name in BENCHMARKS}
    items = [{**item, "benchmark": name} for name, module in modules.items() for item in module.load("sample", None)]
    items = items[:num_prompts]

    def messages(item: dict[str, Any]) -> list[dict[str, str]]:
        asked: list[dict[str, str]] = modules[item["benchmark"]].messages(item)
        return asked

    def ours(folder: Path) -> int:
        cache = CompletionCache(folder / "cache.jsonl")
        generate(engine, tokenizer, items, messages, Sampling(max_new_tokens), folder, lambda done, total, note: None, cache)
        lines = (folder / "completions.jsonl").read_text().splitlines()
        return sum(json.loads(line)["num_completion_tokens"] for line in lines)

    llm: Any = engine._llm  # type: ignore[attr-defined]

    def bare(folder: Path) -> int:
        prompts = [TokensPrompt(prompt_token_ids=render_prompt(tokenizer, messages(item))) for item in items]
        outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=max_new_tokens), use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def rate(way: Callable[[Path], int]) -> tuple[float, float]:
        """Tokens per second, and seconds of processor time per token, which hardly depend on what else the machine does."""
        engine.reseed(0)  # empties the prefix cache
        with tempfile.TemporaryDirectory() as folder:
            started_s, started_cpu_s = time.perf_counter(), time.process_time()
            num_tokens = way(Path(folder))
            elapsed_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
            return num_tokens / elapsed_s, cpu_s / num_tokens

    rates: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    for number in range(repeats + 1):
        # The first of a pair changes, so that neither profits from its place.
        for name, way in [("bare", bare), ("ours", ours)][:: 1 if number % 2 else -1]:
            found = rate(way)
            if number:
                rates[name].append(found)
    pairs = list(zip(rates["ours"], rates["bare"], strict=True))
    ratios, cpu_ratios = ([mine[place] / other[place] for mine, other in pairs] for place in (0, 1))
    engine.close()
    return {
        "machine": machine(),
        "model": model.name,
        "prompts": len(items),
        "max_new_tokens": max_new_tokens,
        "engine": engine.version,
        "bare_tokens_per_second": [speed for speed, _ in rates["bare"]],
        "ours_tokens_per_second": [speed for speed, _ in rates["ours"]],
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "cpu_ratios": cpu_ratios,
        "cpu_ratio": statistics.median(cpu_ratios),
    }


if __name__ == "__main__":
    main()
