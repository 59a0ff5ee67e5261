"""Scores stored completions: a verdict per item, and the result over all. No model runs, and nothing that one wrote is executed."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from bnf.plugins import load
from evaluation.answers.thoughts import answer_of, noted
from evaluation.benchmarks import ZEROEVAL_BENCHMARKS, Benchmark
from evaluation.records import Record, read_json, write_json, write_whole
from evaluation.samples import SAMPLE, by_item, votes
from evaluation.scoring.aggregate import SCORER_VERSION, Score, ScoreRecord, scored_by_rule
from evaluation.scoring.aggregate import aggregate as aggregate
from evaluation.scoring.reading import read_answered, read_completions, read_items
from evaluation.types import Item, Progress, Verdict

# The rule of a completion that ends in mid-thought: it has no answer, whatever the thought looked at.
UNFINISHED_THOUGHT = "unfinished_thought"

# An item's names and labels: sources give the same question different ones.
_LABELS = ("id", "level", "subject")
_STEP = 256  # items between two reports of progress


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
    scored = scored_by_rule(benchmark)
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
    if scored.HAS_MAJORITY:
        _count_votes(records, scored)
    if progress is not None:
        progress(len(completions), len(completions), "")
    return records


def _count_votes(records: Sequence[ScoreRecord], scored: Benchmark) -> None:
    """Adds `votes` to each of several samples of an item: how many of them have its answer."""
    several = [record for record in records if SAMPLE in record]
    for samples in by_item(cast(Sequence[Record], several)).values():
        answers = [sample["answer"] for sample in samples]
        right = [sample["outcome"] == "correct" for sample in samples]
        for sample, number in zip(samples, votes(answers, right, scored.same_answer), strict=True):
            sample["votes"] = number


def content_digest(item: Item) -> str:
    """What the item asks and its gold answer, as 32 hex digits; neither its id, which may be a row's number, nor its labels."""
    content = {key: value for key, value in item.items() if key not in _LABELS}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def items_digest(items: Sequence[Item]) -> str:
    """sha256 (hex) of the items' content and order, wherever they came from: equal digests are the same benchmark data."""
    return hashlib.sha256("".join(content_digest(item) + "\n" for item in items).encode()).hexdigest()


def answers_digest(items: Sequence[Item]) -> str:
    """16 hex digits of the sha256 of the items' gold answers in order of the text: equal ones have the same answers, in whatever order.

    A number counts without leading zeros: AIME's answer sheets have `073`.
    """
    answers = [str(item["answer"]) for item in items]
    plain = sorted(text.lstrip("0") or "0" if text.isdecimal() else text for text in answers)
    # A file's text may hold half a surrogate pair.
    return hashlib.sha256("\n".join(plain).encode(errors="surrogatepass")).hexdigest()[:16]


def _answers_known(benchmark: str, items: Sequence[Item]) -> bool | None:
    """Whether a whole set of items has the benchmark's published gold answers; None where nothing is known of them."""
    scored = scored_by_rule(benchmark)
    if scored.ANSWERS_DIGEST is None or len(items) != scored.NUM_ITEMS:
        return None
    return answers_digest(items) == scored.ANSWERS_DIGEST


def score_folder(
    benchmark: str,
    completions_dir: Path,
    output_dir: Path,
    *,
    source: str,
    limit: int | None,
    sampling: Record | None = None,
    progress: Progress | None = None,
) -> Score:
    """Scores a generation's items.jsonl and completions.jsonl; writes scores.jsonl and summary.json and returns the latter.

    The items that the completions were generated for are expected. `items_digest` identifies them, and `left_out` counts the rows of
    the source that are no items, by reason.

    Args:
        source: `hub`, `file` or `sample`; goes into the summary, so that a sample is never taken for the benchmark.
        sampling: How the completions were drawn (`num_samples`, `temperature`, `top_p`); None for one greedy completion of each item.

    Raises:
        FileNotFoundError, ValueError: where the folder's files are missing or ill-formed.
    """
    items = read_items(completions_dir / "items.jsonl", benchmark)
    completions = read_completions(completions_dir / "completions.jsonl")
    records = score_records(benchmark, items, completions, progress)
    left_out = completions_dir / "left_out.json"
    summary: Score = {
        **aggregate(benchmark, records, len(items), sampling["num_samples"] if sampling else None),
        "source": source,
        "limit": limit,
        "items_digest": items_digest(items),
        "left_out": read_json(left_out) if left_out.exists() else {},
    }
    if (known := _answers_known(benchmark, items)) is not None:
        summary["has_published_answers"] = known
    if sampling is not None:
        summary["sampling"] = sampling
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
    markers: Sequence[str] | None = None,
) -> Score:
    """The aggregate of one file of completions, over the items that were asked for.

    A native file has its items.jsonl beside it, and these are expected, as in the score stage; a ZeroEval file holds gold answers and
    a model's name, and the protocol's number is expected. Either is `partial` where it has fewer items than the protocol
    (`n_benchmark`). With `lm_eval` the result has `cross_check` and `disagreements` as `evaluation.harness.replay.cross_check`
    gives them.

    Args:
        has_thoughts: Whether thoughts are taken off before scoring. Left out they are, but not in a ZeroEval file, as upstream reads them.
        markers: The texts between which the model thinks, which are then taken off; a record that says itself where its answer begins is
            taken at its word. None: the usual ones.

    Raises:
        FileNotFoundError, ValueError: where a file is missing or ill-formed.
    """
    has_thoughts = (format == "native" or markers is not None) if has_thoughts is None else has_thoughts
    if format == "zeroeval":
        from evaluation.scoring.zeroeval import load_zeroeval_results

        recorded = load_zeroeval_results(file, benchmark)
        model, items, completions, boxed = recorded.model, recorded.items, recorded.completions, recorded.boxed
    else:
        completions, items = read_answered(file, benchmark)
        model, boxed = None, False
    if markers is not None:
        completions = [{**noted(one["completion"], begun=False, markers=markers), **one} for one in completions]
    records = score_records(benchmark, items, completions, boxed=boxed, has_thoughts=has_thoughts)
    # A ZeroEval file has no items but those that were answered.
    n_benchmark = scored_by_rule(benchmark).NUM_ITEMS or 0
    n_expected = n_benchmark if format == "zeroeval" else len(items)
    result: Score = {**aggregate(benchmark, records, n_expected), "model": model, "items_digest": items_digest(items)}
    if format == "native" and (known := _answers_known(benchmark, items)) is not None:
        result["has_published_answers"] = known
    # A run knows that it asked for less than there is; a file by itself stands for the benchmark.
    result["partial"] = result["n"] < max(n_expected, n_benchmark)
    if lm_eval:
        from evaluation.harness.replay import cross_check

        result["cross_check"], result["disagreements"] = cross_check(benchmark, items, [dict(one) for one in records])
    return result


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
    if completion.get(SAMPLE) is not None:
        # After the id, where a reader looks for it.
        record = cast(ScoreRecord, {"id": record["id"], SAMPLE: completion[SAMPLE], **record})
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
