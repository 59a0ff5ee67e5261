"""Scores stored completions: a verdict per item, and the result over all. No model runs, and nothing that one wrote is executed.

Rates are in percent, unrounded. `accuracy` and `no_answer` divide by the items that were asked for, so a missing item counts as
wrong and makes the result partial; `accuracy_of_present` divides by the completions there are, `accuracy_of_parsed` by those in
which an answer was found.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from bnf.plugins import load, own_names
from evaluation.answers.thoughts import answer_of, noted
from evaluation.benchmarks import BENCHMARKS, ZEROEVAL_BENCHMARKS, Benchmark
from evaluation.records import Record, read_json, write_json, write_whole
from evaluation.scoring.reading import read_completions, read_items
from evaluation.statistics import percent, standard_error, wilson_interval
from evaluation.types import Item, Outcome, Progress, Verdict

SCORER_VERSION = "6"  # goes up with every change that can change a verdict

# The rule of a completion that ends in mid-thought: it has no answer, whatever the thought looked at.
UNFINISHED_THOUGHT = "unfinished_thought"

# An item's names and labels: sources give the same question different ones.
_LABELS = ("id", "level", "subject")
_STEP = 256  # items between two reports of progress


class ScoreRecord(TypedDict):
    """A line of scores.jsonl: what the rule says of one completion, and what it rests on."""

    id: str
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


class Score(TypedDict):
    """A benchmark's result; summary.json of a score stage, or what `bnf score` prints. Rates are in percent."""

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
    left_out: NotRequired[dict[str, int]]
    thoughts: NotRequired[Thoughts]
    cross_check: NotRequired[Record]
    disagreements: NotRequired[list[Record]]


def score_records(
    benchmark: str,
    items: Sequence[Item],
    completions: Sequence[Record],
    progress: Progress | None = None,
    *,
    boxed: bool = False,
    has_thoughts: bool = True,
) -> list[ScoreRecord]:
    """One record per completion, in the order of the completions: the verdict, what it rests on, and the raw text.

    `cluster` is equal for items that ask the same question, `content` where the gold answer is the same too: runs are paired by it.
    A benchmark's `second_metrics`, where it has any, are worked out last.

    Args:
        boxed: Whether ZeroEval's boxed rule is tried; upstream tries it for Llama 3.1 alone.
        has_thoughts: Whether a completion's thought is taken off before it is scored. Otherwise it is read like the rest.

    Raises:
        ValueError: where a completion's id is no item's.
    """
    scored = _scored(benchmark)
    score = functools.partial(load(ZEROEVAL_BENCHMARKS, benchmark).score, boxed=True) if boxed else scored.score
    by_id = {item["id"]: item for item in items}
    records: list[ScoreRecord] = []
    for number, completion in enumerate(completions):
        if completion["id"] not in by_id:
            raise ValueError(
                f"completions must be of the {len(by_id)} items, got the id {completion['id']!r}; "
                "give the items that they were generated from"
            )
        records.append(_record(by_id[completion["id"]], completion, score, scored.GROUPS, has_thoughts))
        if progress is not None and number % _STEP == 0:
            progress(number, len(completions), "")
    asked = [by_id[record["id"]] for record in records]
    found = scored.second_metrics(asked, [record["answer"] for record in records], progress)
    for record, metrics in zip(records, found, strict=True):
        record["metrics"] = {**record["metrics"], **metrics}
    if progress is not None:
        progress(len(completions), len(completions), "")
    return records


def aggregate(benchmark: str, records: Sequence[ScoreRecord], n_expected: int) -> Score:
    """The benchmark's result over `n_expected` items; the interval is Wilson's, `stderr` is the sample's as in lm-eval.

    `groups` divides by the items there are: of each level, each subject, where the benchmark's items name them.

    Raises:
        ValueError: where there are more records than items were expected.
    """
    scored = _scored(benchmark)
    n = len(records)
    if n > n_expected:
        raise ValueError(f"completions must be of at most {n_expected} items of {benchmark}, got {n}; give one per item")
    outcomes = Counter(record["outcome"] for record in records)
    num_right, num_parsed = outcomes["correct"], n - outcomes["no_answer"] - outcomes["error"]
    finished = [record for record in records if record["finish_reason"] is not None]
    lengths = [record["num_completion_tokens"] for record in records if record["num_completion_tokens"] is not None]
    stderr = standard_error([1.0] * num_right + [0.0] * (n_expected - num_right))
    score: Score = {
        "benchmark": benchmark,
        "title": scored.TITLE,
        "model": None,
        "n": n,
        "n_expected": n_expected,
        "n_benchmark": scored.NUM_ITEMS,
        "missing": n_expected - n,
        "partial": n < n_expected,
        "accuracy": percent(num_right, n_expected),
        "accuracy_of_present": percent(num_right, n),
        "accuracy_of_parsed": percent(num_right, num_parsed),
        "no_answer": percent(outcomes["no_answer"], n_expected),
        "error": percent(outcomes["error"], n_expected),
        "truncated": percent(sum(record["finish_reason"] == "length" for record in finished), len(finished)),
        "mean_completion_tokens": sum(lengths) / len(lengths) if lengths else None,
        "ci": list(wilson_interval(num_right, n_expected)),
        "ci_method": "wilson",
        "stderr": None if math.isnan(stderr) else stderr,
        "rules": dict(Counter(record["rule"] for record in records).most_common()),
        "metrics": {
            name: _metric(records, name, n_expected)
            for name in sorted({name for record in records for name in record["metrics"]})
        },
        "groups": {name: _by_group(records, name) for name in scored.GROUPS},
        "scorer": SCORER_VERSION,
    }
    if thinking := [record for record in records if record.get("answer_start", 0) != 0]:
        score["thoughts"] = _thoughts(thinking, n)
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
    groups: dict[str, list[str]] = {}
    for record in records:
        if record["groups"].get(name) is not None:
            groups.setdefault(str(record["groups"][name]), []).append(record["outcome"])
    return {
        group: {
            "n": len(outcomes),
            "accuracy": percent(outcomes.count("correct"), len(outcomes)),
            "no_answer": percent(outcomes.count("no_answer"), len(outcomes)),
        }
        for group, outcomes in sorted(groups.items())
    }


def content_digest(item: Item) -> str:
    """What the item asks and its gold answer, as 32 hex digits; neither its id, which may be a row's number, nor its labels."""
    content = {key: value for key, value in item.items() if key not in _LABELS}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def items_digest(items: Sequence[Item]) -> str:
    """sha256 (hex) of the items' content and order, wherever they came from: equal digests are the same benchmark data."""
    return hashlib.sha256("".join(content_digest(item) + "\n" for item in items).encode()).hexdigest()


def score_folder(
    benchmark: str, completions_dir: Path, output_dir: Path, *, source: str, limit: int | None, progress: Progress | None = None
) -> Score:
    """Scores a generation's items.jsonl and completions.jsonl; writes scores.jsonl and summary.json and returns the latter.

    The items that the completions were generated for are expected. `items_digest` identifies them, and `left_out` counts the rows of
    the source that are no items, by reason.

    Args:
        source: `hub`, `file` or `sample`; goes into the summary, so that a sample is never taken for the benchmark.

    Raises:
        FileNotFoundError, ValueError: where the folder's files are missing or ill-formed.
    """
    items = read_items(completions_dir / "items.jsonl")
    completions = read_completions(completions_dir / "completions.jsonl")
    records = score_records(benchmark, items, completions, progress)
    left_out = completions_dir / "left_out.json"
    summary: Score = {
        **aggregate(benchmark, records, len(items)),
        "source": source,
        "limit": limit,
        "items_digest": items_digest(items),
        "left_out": read_json(left_out) if left_out.exists() else {},
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    # ASCII: an answer can hold half a surrogate pair, which UTF-8 cannot.
    write_whole(output_dir / "scores.jsonl", records, ensure_ascii=True)
    write_json(output_dir / "summary.json", summary, indent=2)
    return summary


def score_completions(
    benchmark: str,
    file: Path,
    *,
    format: Literal["native", "zeroeval"] = "native",
    lm_eval: bool = False,
    has_thoughts: bool | None = None,
) -> Score:
    """The aggregate of one file of completions, over the items that were asked for.

    A native file has its items.jsonl beside it, and these are expected, as in the score stage; a ZeroEval file holds gold answers and
    a model's name, and the protocol's number is expected. Either is `partial` where it has fewer items than the protocol
    (`n_benchmark`). With `lm_eval` the result has `cross_check` and `disagreements` as `evaluation.harness.replay.cross_check`
    gives them.

    Args:
        has_thoughts: Whether thoughts are taken off before scoring. Left out they are, but not in a ZeroEval file, as upstream reads them.

    Raises:
        FileNotFoundError, ValueError: where a file is missing or ill-formed.
    """
    has_thoughts = format == "native" if has_thoughts is None else has_thoughts
    if format == "zeroeval":
        from evaluation.scoring.zeroeval import load_zeroeval_results

        recorded = load_zeroeval_results(file, benchmark)
        model, items, completions, boxed = recorded.model, recorded.items, recorded.completions, recorded.boxed
    else:
        # The named file first: its faults are reported before those of the file beside it.
        completions, items = read_completions(file), read_items(file.with_name("items.jsonl"))
        model, boxed = None, False
    records = score_records(benchmark, items, completions, boxed=boxed, has_thoughts=has_thoughts)
    # A ZeroEval file has no items but those that were answered.
    n_benchmark = _scored(benchmark).NUM_ITEMS or 0
    n_expected = n_benchmark if format == "zeroeval" else len(items)
    result: Score = {**aggregate(benchmark, records, n_expected), "model": model, "items_digest": items_digest(items)}
    # A run knows that it asked for less than there is; a file by itself stands for the benchmark.
    result["partial"] = result["n"] < max(n_expected, n_benchmark)
    if lm_eval:
        from evaluation.harness.replay import cross_check

        result["cross_check"], result["disagreements"] = cross_check(benchmark, items, [dict(one) for one in records])
    return result


def _scored(benchmark: str) -> Benchmark:
    found = load(BENCHMARKS, benchmark)
    if not own_names(found, ["score"]):
        raise ValueError(f"benchmark must be scored by a rule, got {benchmark}, which a judge scores; use its judge")
    return found


def _record(
    item: Item,
    completion: Record,
    score: Callable[[Item, str, str], Verdict],
    groups: Sequence[str],
    has_thoughts: bool,
) -> ScoreRecord:
    finish_reason = completion.get("finish_reason")
    # What has no answer has the metrics of an empty one: a share of several things counts all of them.
    if (finish_reason or "").startswith("error"):
        verdict = replace(score(item, "", ""), outcome="error", answer=None, rule="generation_failed")
    elif (said := answer_of(completion) if has_thoughts else completion["completion"]) is None:
        verdict = replace(score(item, "", ""), outcome="no_answer", answer=None, rule=UNFINISHED_THOUGHT)
    else:
        verdict = score(item, said, finish_reason or "")
    record: ScoreRecord = {
        "id": item["id"],
        "outcome": verdict.outcome,
        "answer": verdict.answer,
        "rule": verdict.rule,
        "metrics": verdict.metrics,
        "finish_reason": finish_reason,
        "num_completion_tokens": completion.get("num_completion_tokens"),
        "groups": {name: item.get(name) for name in groups},
        "cluster": _cluster(item),
        "content": content_digest(item),
        "completion": completion["completion"],
        "scorer": SCORER_VERSION,
    }
    if verdict.weights:
        record["weights"] = verdict.weights
    # Without a thought nothing is said of one.
    thought: Record = {}
    if has_thoughts:
        thought = completion if "answer_start" in completion else dict(noted(completion["completion"], begun=False))
    if "answer_start" in thought:
        record["answer_start"] = thought["answer_start"]
    if "num_thought_tokens" in thought:
        record["num_thought_tokens"] = thought["num_thought_tokens"]
    if "is_thought_cut" in thought:
        record["is_thought_cut"] = thought["is_thought_cut"]
    return record


def _cluster(item: Item) -> str:
    """What items that ask the same question share: MMLU has some in two subjects."""
    asked = [item.get("question"), item.get("choices")]
    return item["id"] if asked == [None, None] else hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
