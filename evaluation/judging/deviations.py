"""In what a judged result differs from the published protocol: it stands beside the score, the judge's model first."""

from __future__ import annotations

from bnf.plugins import load
from evaluation.benchmarks import Benchmark, most_new_tokens
from evaluation.judging.protocols import PROTOCOLS
from evaluation.records import Record


def deviations(benchmark: Benchmark, settings: Record, baseline: str | None, *, thinks: bool = False) -> list[str]:
    """In words, of a judge stage's settings; empty for a question set without published figures.

    Each published judge has a temperature and a limit of its own. Another judge is held to those of the first one.

    Args:
        thinks: Whether answers have a thought.
    """
    published = benchmark.FORMS[settings["form"]]
    if not published:
        return []
    found = []
    protocol = load(PROTOCOLS, settings["form"])
    own = next((one for one in published if one.is_named(settings["judge_name"])), None)
    if own is None or benchmark.ENSEMBLE:
        found.append(f"judge {settings['judge_name']} instead of {judges_in_words(benchmark, settings['form'])}")
    compared = own or published[0]
    if baseline is not None and baseline != benchmark.BASELINE:
        found.append(f"baseline {baseline} instead of {benchmark.BASELINE}")
    if settings["source"] == "sample":
        found.append("the project's own questions instead of the benchmark's")
    elif settings["limit"] is not None:
        found.append(f"the first {settings['limit']} of {benchmark.NUM_ITEMS} questions")
    most, with_thought = most_new_tokens(benchmark, settings["max_new_tokens"]), benchmark.MAX_NEW_TOKENS_WITH_THOUGHT
    if thinks and with_thought is not None and most < with_thought:
        found.append(f"answers of at most {most} instead of the {with_thought} tokens of a model that thinks")
    elif most < benchmark.MAX_NEW_TOKENS:
        found.append(f"answers of at most {most} instead of {benchmark.MAX_NEW_TOKENS} tokens")
    if settings.get("system_prompt") is not None:
        found.append("a system prompt before the questions that have none of their own")
    orders = protocol.ORDERS or settings["orders"]
    if settings["orders"] != orders:
        found.append(f"games in {settings['orders']} order{'s' if settings['orders'] == 'both' else ''} instead of {orders}")
    if settings["verdict"] != "text":
        found.append(f"verdicts by {settings['verdict']} instead of free text")
    else:
        longest = compared.max_judgment_tokens
        if longest is not None and (said := settings["max_judgment_tokens"]) < longest:
            found.append(f"judgments of at most {said} instead of {longest} tokens")
        if compared.temperature > 0:
            found.append(f"judgments at temperature 0 instead of {compared.temperature:g}")
    found.append("the judge's instructions in words of this project")
    return found


def judges_in_words(benchmark: Benchmark, protocol: str) -> str:
    """The judges of the published figures, of an ensemble all of them together."""
    names = [one.name for one in benchmark.FORMS[protocol]]
    return f"{' and '.join(names)} together" if benchmark.ENSEMBLE else " or ".join(names)
