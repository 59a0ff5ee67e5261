"""A judge's result of one run as rows of the tidy tables: its score by its own name, as the run's report has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from evaluation.records import Record, read_json


class Metric(NamedTuple):
    """What a judge's score is: its key in the judge stage's results, its name in tables and in words, its unit and that of a difference,
    its ends.
    """

    key: str
    name: str
    words: str
    unit: str
    difference_unit: str
    scale: tuple[float, float]


_WIN_RATE = Metric("score", "win_rate", "win rate", "percent", "points", (0.0, 100.0))
_RATING = Metric("score", "rating", "rating", "1 to 10", "rating points", (1.0, 10.0))
_BY_KEY = {
    "wb_score": Metric("wb_score", "wb_score", "WB-Score", "-80 to 100", "WB-Score points", (-80.0, 100.0)),
    "wb_reward": Metric("wb_reward", "wb_reward", "WB-Reward", "-100 to 100", "WB-Reward points", (-100.0, 100.0)),
}


def metric_of(summary: Record) -> Metric:
    """The metric of a judge stage's summary: by the score that its models have, and whether answers were compared."""
    result = next(iter(summary["models"].values()))
    own = next((metric for key, metric in _BY_KEY.items() if key in result), None)
    return own or (_WIN_RATE if summary.get("orders") is not None else _RATING)


def judged_rows(folder: Path) -> Iterator[Record]:
    """Of each model its score and the share of games without a verdict; aligned minus base where the judge stage has it.

    Every row says which judge it was, and what speaks against its score.

    Raises:
        ValueError: where the summary is ill-formed.
    """
    summary = read_json(folder / "summary.json")
    metric = metric_of(summary)
    for model, result in summary["models"].items():
        prefix = "" if model == "aligned" else f"{model}_"
        value, n = result.get(metric.key), result["n_questions"]
        note = judge_note(summary, result)
        score, ci = (f"{note}; no verdict" if value is None else note), result["ci_clustered"]
        yield _row(prefix + metric.name, value, metric.unit, ci, 0 if value is None else n, _or_one_question(score, value, ci))
        if result["n_games"]:
            yield _row(f"{prefix}no_verdict", 100 * result["n_null"] / result["n_games"], "percent", None, n, note)
    if "delta" in summary:
        value, ci = summary["delta"], summary["delta_ci"]
        aligned = summary["models"]["aligned"]
        note = judge_note(summary, aligned) + ("; no question on which both models have a verdict" if value is None else "")
        n = 0 if value is None else aligned["n_questions"]
        yield _row(f"delta_{metric.name}", value, metric.difference_unit, ci, n, _or_one_question(note, value, ci))


def judge_note(summary: Record, result: Record) -> str:
    """`judged by gpt-4 against gpt-4-0314; partial: 20 of 80 questions; not to be trusted: no verdict`."""
    against = f" against {summary['baseline']}" if summary.get("baseline") else ""
    return "; ".join([f"judged by {summary['judge']}{against}", *doubts(result)])


def doubts(result: Record) -> list[str]:
    """What speaks against a model's score."""
    found = [] if not result["partial"] else [f"partial: {result['n_questions']} of {result['n_expected']} questions"]
    return found if result["trusted"] else [*found, f"not to be trusted: {result['untrusted_reason']}"]


def _or_one_question(note: str, value: float | None, ci: object) -> str:
    return f"{note}; no interval: a single question" if value is not None and ci is None else note


def _row(metric: str, value: float | None, unit: str, ci: list[float] | None, n: int, note: str) -> Record:
    low, high = ci or (None, None)
    return {"metric": metric, "value": value, "unit": unit, "ci_low": low, "ci_high": high, "n": n, "note": note}
