"""Runs against each other, item by item: is one better than another, or is it noise?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation._formats import difference, number, p_value
from evaluation._paired import Record, compare_scores, correct_and_judge, is_correct, read_json, read_scores
from evaluation.statistics import percent
from evaluation.summary import label

# benchmark → model → folder of its scores
Scored = Mapping[str, Mapping[str, str | Path]]


def compare(runs: Sequence[tuple[str, Scored]]) -> Record:
    """Every run against the first, on each benchmark both have: their aligned models, or what a run has where it aligned none.

    Accuracies and differences are over the items the two runs share, in percent; Holm's correction is over all comparisons.
    `runs` has each run's own accuracy, `not_compared` the benchmarks that one of two runs lacks.

    Raises:
        ValueError: where there are fewer than two runs, or a score file is ill-formed.
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
    }


def comparison_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row of text per comparison, all with the same columns; rates in percent."""
    return [
        {
            "benchmark": label(entry["benchmark"], entry),
            "run": entry["second"],
            "against": entry["first"],
            "accuracy": f"{number(entry['first_accuracy'])} → {number(entry['second_accuracy'])}",
            "Δ [95 %]": difference(entry["delta"], entry["delta_ci"]),
            "verdict": entry["verdict"] or "no shared items",
            "p (Holm)": p_value(entry["mcnemar_p_holm"]),
            "flips": f"+{entry['flips']['gained']} −{entry['flips']['lost']}",
            "items": f"{entry['n_paired']}" + (f" ({entry['n_not_shared']} not shared)" if entry["n_not_shared"] else ""),
        }
        for entry in result["comparisons"]
    ]


class _Result:
    """A run's scores on one benchmark: of its aligned model where it has one."""

    def __init__(self, folders: Mapping[str, str | Path]) -> None:
        self.model = "aligned" if "aligned" in folders else next(iter(folders))
        folder = Path(folders[self.model])
        self.summary = read_json(folder / "summary.json")
        self.scores = read_scores(folder)

    @property
    def source(self) -> str | None:
        source: str | None = self.summary.get("source")
        return source

    def as_json(self) -> Record:
        shown = ("accuracy", "ci", "no_answer", "n", "n_expected", "n_benchmark", "source", "partial")
        return {"model": self.model, **{key: self.summary.get(key) for key in shown}}

    def accuracy(self, ids: Sequence[str]) -> float | None:
        return percent(sum(is_correct(self.scores[id]) for id in ids), len(ids))


def _compare(first_name: str, second_name: str, benchmark: str, first: _Result, second: _Result) -> Record:
    # Items of different sources may carry the same ids and still be other items.
    same = first.source == second.source
    shared = [id for id in first.scores if id in second.scores] if same else []
    return {
        "benchmark": benchmark,
        "source": first.source if same else None,
        "first": first_name,
        "second": second_name,
        "first_model": first.model,
        "second_model": second.model,
        "first_accuracy": first.accuracy(shared),
        "second_accuracy": second.accuracy(shared),
        "n_not_shared": len(first.scores) + len(second.scores) - 2 * len(shared),
        **compare_scores(first.scores, second.scores if same else {}),
    }
