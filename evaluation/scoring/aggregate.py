"""The result of a benchmark over all of its items, made from the verdicts on its completions, and what these records hold.

Rates are in percent, unrounded. `accuracy` and `no_answer` divide by the items that were asked for, so a missing item counts as
wrong and makes the result partial; `accuracy_of_present` divides by the completions there are, `accuracy_of_parsed` by those in
which an answer was found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NotRequired, TypedDict, cast

from bnf.plugins import load, own_names
from evaluation.benchmarks import BENCHMARKS, Benchmark
from evaluation.records import Record
from evaluation.samples import by_item, mean_interval, merged, num_right, values_at
from evaluation.statistics import percent, standard_error, wilson_interval
from evaluation.types import Outcome

SCORER_VERSION = "7"  # goes up with every change that can change a verdict


class ScoreRecord(TypedDict):
    """A line of scores.jsonl: what the rule says of one completion, and what it rests on."""

    id: str
    sample: NotRequired[int]
    outcome: Outcome
    answer: str | None
    rule: str
    metrics: dict[str, bool | float]
    weights: NotRequired[dict[str, float]]
    finish_reason: str | None
    num_completion_tokens: int | None
    groups: dict[str, str | None]
    cluster: str
    content: str
    completion: str
    scorer: str
    answer_start: NotRequired[int | None]
    num_thought_tokens: NotRequired[int]
    is_thought_cut: NotRequired[bool]
    votes: NotRequired[int]


class GroupScore(TypedDict):
    """The result of the items of one level or subject, in percent of these."""

    n: int
    accuracy: float | None
    no_answer: float | None


class Thoughts(TypedDict):
    """Of the completions with a thought: their share and that of those whose thought doesn't end, in percent of all completions; the mean
    tokens of the thought and of the answer, over those for which they are known. `cut` is the share of those that met the limit of
    thoughts, where there was one."""

    share: float | None
    unfinished: float | None
    mean_thought_tokens: float | None
    mean_answer_tokens: float | None
    cut: NotRequired[float | None]


class AtK(TypedDict):
    """A figure of several samples in percent, and its 95 % interval over items."""

    value: float
    ci: list[float]


class Score(TypedDict):
    """A benchmark's result; summary.json of a score stage, or what `bnf score` prints. Rates are in percent.

    Of several samples of each item `n` counts the items that have all of them, rates are shares of all samples, and `at_k` has the means
    over items by `pass@k` and `maj@k`, each with its interval. `sampling` is how they were drawn.
    """

    benchmark: str
    title: str
    model: str | None
    n: int
    n_expected: int
    n_benchmark: int | None
    missing: int
    partial: bool
    accuracy: float | None
    accuracy_of_present: float | None
    accuracy_of_parsed: float | None
    no_answer: float | None
    error: float | None
    truncated: float | None
    mean_completion_tokens: float | None
    ci: list[float]
    ci_method: str
    stderr: float | None
    rules: dict[str, int]
    metrics: dict[str, float | None]
    groups: dict[str, dict[str, GroupScore]]
    scorer: str
    source: NotRequired[str]
    limit: NotRequired[int | None]
    items_digest: NotRequired[str]
    has_published_answers: NotRequired[bool]
    left_out: NotRequired[dict[str, int]]
    thoughts: NotRequired[Thoughts]
    num_samples: NotRequired[int]
    at_k: NotRequired[dict[str, AtK]]
    sampling: NotRequired[Record]
    cross_check: NotRequired[Record]
    disagreements: NotRequired[list[Record]]


def aggregate(benchmark: str, records: Sequence[ScoreRecord], n_expected: int, num_samples: int | None = None) -> Score:
    """The benchmark's result over `n_expected` items; the interval is Wilson's, `stderr` is the sample's as in lm-eval.

    `groups` divides by the items there are: of each level, each subject, where the benchmark's items name them. Of several samples the
    accuracy is avg@k, the mean of the items' shares of right samples, and its interval and `stderr` are over items
    (`evaluation.samples`); a sample that is missing counts as wrong.

    Args:
        num_samples: How many of each item were asked for; None takes it from the records.

    Raises:
        ValueError: where there are more records than items, or samples of them, were expected.
    """
    scored = scored_by_rule(benchmark)
    samples = by_item(cast(Sequence[Record], records))
    last = max((record.get("sample", 0) for record in records), default=0)
    num_samples = num_samples or last + 1
    n = len(records) if num_samples == 1 else len(samples)
    if n > n_expected:
        each = "one per item" if num_samples == 1 else f"those of {n_expected}"
        raise ValueError(f"completions must be of at most {n_expected} items of {benchmark}, got {n}; give {each}")
    if num_samples == 1:
        return _aggregate(scored, benchmark, records, n, n_expected, n_expected)
    if last >= num_samples:
        raise ValueError(
            f"completions must be of the samples 0 to {num_samples - 1} of each item of {benchmark}, got {last}; generate them again"
        )
    complete = sum(len(one) == num_samples for one in samples.values())
    score = _aggregate(scored, benchmark, records, complete, n_expected, n_expected * num_samples)
    items = {id: merged(one) for id, one in samples.items()}
    absent = [f" absent {number}" for number in range(n_expected - len(items))]
    clusters = [*(item["cluster"] for item in items.values()), *absent]
    shares = [*(num_right(item["samples"]) / num_samples for item in items.values()), *(0.0 for _ in absent)]
    stderr = standard_error(shares, clusters)
    score |= {
        "ci": list(mean_interval(shares, clusters)),
        "ci_method": "student, clustered by item",
        "stderr": None if math.isnan(stderr) else stderr,
        "num_samples": num_samples,
        "at_k": {},
    }
    for name, values in values_at(items, num_samples).items():
        each_item = [*values.values(), *(0.0 for _ in absent)]
        mean = percent(math.fsum(each_item), n_expected)
        score["at_k"][name] = {"value": mean or 0.0, "ci": list(mean_interval(each_item, clusters))}
    return score


def _aggregate(
    scored: Benchmark, benchmark: str, records: Sequence[ScoreRecord], n: int, n_expected: int, num_expected: int
) -> Score:
    """The result of `n` complete items; `num_expected` counts completions."""
    outcomes = Counter(record["outcome"] for record in records)
    right, num_parsed = outcomes["correct"], len(records) - outcomes["no_answer"] - outcomes["error"]
    finished = [record for record in records if record["finish_reason"] is not None]
    lengths = [record["num_completion_tokens"] for record in records if record["num_completion_tokens"] is not None]
    stderr = standard_error([1.0] * right + [0.0] * (num_expected - right))
    score: Score = {
        "benchmark": benchmark,
        "title": scored.TITLE,
        "model": None,
        "n": n,
        "n_expected": n_expected,
        "n_benchmark": scored.NUM_ITEMS,
        "missing": n_expected - n,
        "partial": n < n_expected,
        "accuracy": percent(right, num_expected),
        "accuracy_of_present": percent(right, len(records)),
        "accuracy_of_parsed": percent(right, num_parsed),
        "no_answer": percent(outcomes["no_answer"], num_expected),
        "error": percent(outcomes["error"], num_expected),
        "truncated": percent(sum(record["finish_reason"] == "length" for record in finished), len(finished)),
        "mean_completion_tokens": sum(lengths) / len(lengths) if lengths else None,
        "ci": list(wilson_interval(right, num_expected)),
        "ci_method": "wilson",
        "stderr": None if math.isnan(stderr) else stderr,
        "rules": dict(Counter(record["rule"] for record in records).most_common()),
        "metrics": {
            name: _metric(records, name, num_expected)
            for name in sorted({name for record in records for name in record["metrics"]})
        },
        "groups": {name: _by_group(records, name) for name in scored.GROUPS},
        "scorer": SCORER_VERSION,
    }
    if thinking := [record for record in records if record.get("answer_start", 0) != 0]:
        score["thoughts"] = _thoughts(thinking, len(records))
    return score


def _thoughts(thinking: Sequence[ScoreRecord], n: int) -> Thoughts:
    known = [record for record in thinking if "num_thought_tokens" in record]
    lengths = [record["num_thought_tokens"] for record in known]
    answers = [(record["num_completion_tokens"] or 0) - record["num_thought_tokens"] for record in known]
    limited = [record["is_thought_cut"] for record in thinking if "is_thought_cut" in record]
    found: Thoughts = {
        "share": percent(len(thinking), n),
        "unfinished": percent(sum(record["answer_start"] is None for record in thinking), n),
        "mean_thought_tokens": sum(lengths) / len(lengths) if lengths else None,
        "mean_answer_tokens": sum(answers) / len(answers) if answers else None,
    }
    if limited:
        found["cut"] = percent(sum(limited), n)
    return found


def _metric(records: Sequence[ScoreRecord], name: str, n_expected: int) -> float | None:
    """A metric over all items in percent. An item that has none counts 0, and weighs what the others weigh on average."""
    having = [record for record in records if name in record["metrics"]]
    weights = [record.get("weights", {}).get(name, 1.0) for record in having]
    total = sum(record["metrics"][name] * weight for record, weight in zip(having, weights, strict=True))
    return percent(total, sum(weights) / len(weights) * n_expected)


def _by_group(records: Sequence[ScoreRecord], name: str) -> dict[str, GroupScore]:
    groups: dict[str, list[ScoreRecord]] = {}
    for record in records:
        if record["groups"].get(name) is not None:
            groups.setdefault(str(record["groups"][name]), []).append(record)
    found: dict[str, GroupScore] = {}
    for group, members in sorted(groups.items()):
        outcomes = [record["outcome"] for record in members]
        found[group] = {
            "n": len({record["id"] for record in members}),
            "accuracy": percent(outcomes.count("correct"), len(outcomes)),
            "no_answer": percent(outcomes.count("no_answer"), len(outcomes)),
        }
    return found


def scored_by_rule(benchmark: str) -> Benchmark:
    """A benchmark that has a rule.

    Raises:
        ValueError: where it has none.
    """
    found = load(BENCHMARKS, benchmark)
    if not own_names(found, ["score"]):
        raise ValueError(f"benchmark must be scored by a rule, got {benchmark}, which a judge scores; use its judge")
    return found
