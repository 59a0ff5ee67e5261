"""In what a judged result differs from the published protocol: it stands beside the score, the judge's model first."""

from __future__ import annotations

from bnf.plugins import load
from evaluation.benchmarks import Benchmark
from evaluation.judging.protocols import PROTOCOLS
from evaluation.records import Record


def deviations(benchmark: Benchmark, settings: Record, baseline: str | None) -> list[str]:
    """In words, of a judge stage's settings; empty for a question set without published figures."""
    published = benchmark.FORMS[settings["form"]]
    if published is None:
        return []
    found = []
    protocol = load(PROTOCOLS, settings["form"])
    if settings["judge_name"] != published:
        found.append(f"judge {settings['judge_name']} instead of {published}")
    if baseline is not None and baseline != benchmark.BASELINE:
        found.append(f"baseline {baseline} instead of {benchmark.BASELINE}")
    if settings["source"] == "sample":
        found.append("the project's own questions instead of the benchmark's")
    elif settings["limit"] is not None:
        found.append(f"the first {settings['limit']} of {benchmark.NUM_ITEMS} questions")
    most = settings["max_new_tokens"]
    if most is not None and most < benchmark.MAX_NEW_TOKENS:
        found.append(f"answers of at most {most} instead of {benchmark.MAX_NEW_TOKENS} tokens")
    if settings.get("system_prompt") is not None:
        found.append("a system prompt before the questions that have none of their own")
    orders = protocol.ORDERS or settings["orders"]
    if settings["orders"] != orders:
        found.append(f"games in {settings['orders']} order{'s' if settings['orders'] == 'both' else ''} instead of {orders}")
    if settings["verdict"] != "text":
        found.append(f"verdicts by {settings['verdict']} instead of free text")
    else:
        longest = protocol.MAX_JUDGMENT_TOKENS
        if longest is not None and (said := settings["max_judgment_tokens"]) < longest:
            found.append(f"judgments of at most {said} instead of {longest} tokens")
        if protocol.TEMPERATURE > 0:
            found.append(f"judgments at temperature 0 instead of {protocol.TEMPERATURE:g}")
    found.append("the judge's instructions in words of this project")
    return found
