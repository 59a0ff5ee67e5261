"""Runs against each other, item by item: is one better than another, or is it noise?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.formats import difference, number, p_value
from evaluation.paired import compare_scores, correct_and_judge, has_samples, holm_p, read_scores, share_right
from evaluation.records import Record, read_json
from evaluation.report.samples import OF_SHARES, compare_at_k, in_words
from evaluation.report.summary import label
from evaluation.statistics import percent

# benchmark → model → folder of its scores
Scored = Mapping[str, Mapping[str, Path]]


def compare(runs: Sequence[tuple[str, Scored]]) -> Record:
    """Every run against the first, on each benchmark both have: their aligned models, or what a run has where it aligned none.

    Accuracies and differences are over the items the two runs share, in percent; Holm's correction is over all comparisons. Items are
    shared that ask the same and have the same gold answer, whatever their ids and their source. `runs` has each run's own accuracy,
    `not_compared` the benchmarks that one of two runs lacks, `notes` what has to be read with the table.

    Raises:
        ValueError: where there are fewer than two runs, or a score file is ill-formed or says nothing of its items' content.
    """
    if len(runs) < 2:
        raise ValueError(f"compare must be given two runs or more, got {len(runs)}; name another run")
    results = [(name, {benchmark: _Result(folders) for benchmark, folders in scored.items()}) for name, scored in runs]
    (first_name, first), *others = results
    comparisons, not_compared = [], []
    for name, second in others:
        comparisons += [
            _compare(first_name, name, benchmark, first[benchmark], second[benchmark])
            for benchmark in first
            if benchmark in second
        ]
        not_compared += [
            {"benchmark": benchmark, "run": first_name if benchmark in second else name}
            for benchmark in [*first, *second]
            if (benchmark in first) != (benchmark in second)
        ]
    correct_and_judge(comparisons)
    return {
        "runs": {
            name: {benchmark: result.as_json() for benchmark, result in by_benchmark.items()} for name, by_benchmark in results
        },
        "comparisons": comparisons,
        "not_compared": not_compared,
        "notes": _notes(comparisons),
    }


def comparison_rows(result: Record) -> list[dict[str, str]]:
    """One row of text per comparison, all with the same columns; rates in percent."""
    return [
        {
            "benchmark": label(entry["benchmark"], entry),
            "run": entry["second"],
            "against": entry["first"],
            "accuracy": f"{number(entry['first_accuracy'])} → {number(entry['second_accuracy'])}",
            "Δ [95 %]": difference(entry["delta"], entry["delta_ci"]),
            "verdict": entry["verdict"] or "no shared items",
            "p (Holm)": p_value(holm_p(entry)),
            "flips": f"+{entry['flips']['gained']} −{entry['flips']['lost']}",
            "items": f"{entry['n_paired']}" + (f" ({entry['n_not_shared']} not shared)" if entry["n_not_shared"] else ""),
        }
        for entry in result["comparisons"]
    ]


def compared_at_k_rows(result: Record) -> list[dict[str, str]]:
    """One row of text for each figure of several samples of each comparison that has them."""
    return [
        {
            "benchmark": label(entry["benchmark"], entry),
            "run": entry["second"],
            "against": entry["first"],
            "figure": figure,
            "Δ [95 %]": difference(found["delta"], found["delta_ci"]),
        }
        for entry in result["comparisons"]
        for figure, found in entry.get("at_k_delta", {}).items()
    ]


class _Result:
    """A run's scores on one benchmark: of its aligned model where it has one."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.model = "aligned" if "aligned" in folders else next(iter(folders))
        folder = folders[self.model]
        self.summary = read_json(folder / "summary.json")
        self.scores = scores_by_content(folder)

    @property
    def source(self) -> str | None:
        source: str | None = self.summary.get("source")
        return source

    def as_json(self) -> Record:
        shown = ("accuracy", "ci", "no_answer", "n", "n_expected", "n_benchmark", "source", "partial", "scorer", "items_digest")
        drawn = {"sampling": self.summary["sampling"]} if "sampling" in self.summary else {}
        return {"model": self.model, **{key: self.summary.get(key) for key in shown}, **drawn}


def scores_by_content(folder: Path) -> dict[str, Record]:
    """The scores by their items' content: ids may be row numbers, and other files have other questions in these rows.

    Items with the same content are told apart by their order.
    """
    scores: dict[str, Record] = {}
    seen: Counter[str] = Counter()
    for id, record in read_scores(folder).items():
        content = record.get("content")
        if not isinstance(content, str):
            raise ValueError(
                f"{folder / 'scores.jsonl'} must have content with each item, by which runs are paired, got none for {id!r}; execute "
                "its recipe with --refresh score, which reads the stored completions"
            )
        seen[content] += 1
        scores[f"{content}-{seen[content]}"] = record
    return scores


def _accuracy(scores: Sequence[Record]) -> float | None:
    return percent(sum(map(share_right, scores)), len(scores))


def _compare(first_name: str, second_name: str, benchmark: str, first: _Result, second: _Result) -> Record:
    shared = [item for item in first.scores if item in second.scores]
    return {
        "benchmark": benchmark,
        "source": first.source if first.source == second.source else None,
        "first": first_name,
        "second": second_name,
        "first_model": first.model,
        "second_model": second.model,
        "first_scorer": first.summary.get("scorer"),
        "second_scorer": second.summary.get("scorer"),
        "first_accuracy": _accuracy([first.scores[item] for item in shared]),
        "second_accuracy": _accuracy([second.scores[item] for item in shared]),
        "n_not_shared": len(first.scores) + len(second.scores) - 2 * len(shared),
        **_drawn(first, second),
        **compare_scores(first.scores, second.scores),
        **_at_k(first, second),
    }


def _at_k(first: _Result, second: _Result) -> Record:
    """The differences of pass@k and maj@k, where both have as many samples."""
    numbers = {result.summary.get("num_samples", 1) for result in (first, second)}
    if len(numbers) > 1 or not (has_samples(first.scores) and has_samples(second.scores)):
        return {}
    return {"at_k_delta": compare_at_k(first.scores, second.scores, numbers.pop())}


def _drawn(first: _Result, second: _Result) -> Record:
    """How the completions of both were drawn, where one of them was sampled."""
    drawn = {"first_sampling": first.summary.get("sampling"), "second_sampling": second.summary.get("sampling")}
    return drawn if any(drawn.values()) else {}


def _notes(comparisons: Sequence[Record]) -> list[str]:
    if not comparisons:
        return []
    found = [
        "Intervals are 95 % and cover the choice of items only: each run is one training with one seed, and a claim about an "
        "objective needs several."
    ]
    for entry in comparisons:
        name = f"{label(entry['benchmark'], entry)}, {entry['second']} against {entry['first']}"
        if entry["n_not_shared"]:
            found.append(
                f"{name}: {entry['n_not_shared']} items are in one of the runs alone, by what they ask and their gold answer, and "
                "are not compared"
            )
        if entry.get("first_sampling") != entry.get("second_sampling"):
            found.append(
                f"{name}: drawn otherwise ({in_words(entry['second_sampling'])} against {in_words(entry['first_sampling'])}), so the "
                "difference may be that of decoding"
            )
        if "paired_p" in entry:
            found.append(f"{name}: {OF_SHARES}")
        versions = entry["first_scorer"], entry["second_scorer"]
        if versions[0] != versions[1]:
            found.append(
                f"{name}: scored by version {versions[1]} against version {versions[0]} of the scorer, so a flip may be the "
                "scorer's; execute the older run's recipe with --refresh score"
            )
    return found
