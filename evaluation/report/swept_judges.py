"""What judges say of a sweep's settings, over questions and seeds: scores, their change against the base model, and against BNF's.

A score is a ratio of sums over questions, as a clear verdict of Arena-Hard counts as three battles: p = Σ got / Σ weight. With w̄ the mean
weight, the values v = p + (got − p · weight) / w̄ of the questions have p as their mean, and their spread is that of the ratio (its linear
part). So the interval of a score over questions and seeds is that of any mean here (`evaluation.crossed`), in which the games of one
question are a cluster. Of equal weights v is what the question got.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.crossed import Block, CrossedMean, crossed_mean
from evaluation.judging.aggregates.arena_hard_v2 import counted
from evaluation.judging.aggregates.judgment import Judgment
from evaluation.judging.aggregates.wildbench import REWARDS, rescaled
from evaluation.judging.aggregates.win_rate import with_battles
from evaluation.records import Record, read_json, read_records
from evaluation.report.inputs import MODELS
from evaluation.report.judged_rows import Metric, doubts, metric_of
from evaluation.report.summary import label
from evaluation.report.swept import SweptRun
from evaluation.report.swept_scores import Setting

# What one place of a model has: (question, turn) → what it got in the metric's unit, and how much it weighs.
_Sums = dict[tuple[str, int], tuple[float, float]]


@dataclass(frozen=True)
class JudgedRow:
    """A setting's score.

    Attributes:
        score, delta: Over questions and seeds; `delta` is aligned minus base, None where a run's base model wasn't judged.
        num_questions: What it is over.
        base: The base model's score in the mean of the seeds.
        against: The score less that of the setting of this title, over the seeds that both have.
        by_seed: Each seed's score.
        doubts: What speaks against it, by seed.
        no_verdict: Games without a verdict, of how many.
    """

    title: str
    score: CrossedMean
    num_questions: int
    base: float | None
    delta: CrossedMean | None
    against: tuple[str, CrossedMean] | None
    by_seed: Mapping[int, float]
    doubts: Sequence[str]
    no_verdict: tuple[int, int]


@dataclass(frozen=True)
class Judged:
    """What one judge says of one benchmark. Without rows `notes` say why there are none."""

    label: str
    metric: Metric
    judge: str
    baseline: str | None
    rows: Sequence[JudgedRow]
    notes: Sequence[str]


def judged_results(
    settings: Sequence[Setting], opponents: Mapping[str, Setting | None], title: Callable[[Setting], str]
) -> list[Judged]:
    """For each judged benchmark that a run has, in the order of the first that has it.

    Args:
        opponents: Whom each setting is compared with, by its name.

    Raises:
        ValueError: where a file of a judge stage is ill-formed.
    """
    names = dict.fromkeys(name for one in settings for run in one.runs.values() for name in run.judges)
    return [_judged(name, settings, opponents, title) for name in names]


def _judged(
    name: str, settings: Sequence[Setting], opponents: Mapping[str, Setting | None], title: Callable[[Setting], str]
) -> Judged:
    every = [run for one in settings for run in one.runs.values()]
    runs = {run.run: read_json(run.judges[name] / "summary.json") for run in every if name in run.judges}
    first = next(iter(runs.values()))
    metric = metric_of(first)
    shown = label(name, first)
    notes = [f"{run.run} was not judged on {shown}, which is left out of its setting." for run in every if run.run not in runs]
    found = Judged(shown, metric, first["judge"], first.get("baseline"), [], notes)
    has_base = all(set(MODELS) <= summary["models"].keys() for summary in runs.values())
    sums = {run.run: _sums(run.judges[name], runs[run.run]["form"], metric) for run in every if run.run in runs}
    if apart := [run for run in runs if not _agrees(sums[run], runs[run], metric)]:
        form = runs[apart[0]]["form"]
        return _with(
            found,
            [],
            f"{shown}: the protocol {form} counts in a way of its own; its scores are in the tables, without intervals over seeds.",
        )
    wanted = MODELS if has_base else ("aligned",)
    tables = [sums[run].get(model, {}) for run in runs for model in wanted]
    places = [place for place in tables[0] if all(place in table for table in tables)]
    most = len({question for table in tables for question, _ in table})
    questions = len({question for question, _ in places})
    if not places:
        return _with(found, [], f"{shown}: no question has a verdict of all runs, so that their scores can't be compared.")
    if questions < most or any(len(table) > len(places) for table in tables):
        notes.append(
            f"{shown}: everything is over the {questions} questions of {most} that have verdicts of all runs; the scores in the runs' "
            "reports are over all of their own."
        )
    clusters = [question for question, _ in places]

    def values(run: SweptRun, model: str) -> list[float]:
        return _linear([sums[run.run][model][place] for place in places])

    def mean(of: Sequence[Sequence[float]], scale: tuple[float, float]) -> CrossedMean:
        return crossed_mean([Block(of, clusters, right_or_wrong=False, scale=scale)], with_p=False)

    whole = metric.scale[1] - metric.scale[0]
    rows = []
    for one in settings:
        own = {seed: run for seed, run in one.runs.items() if run.run in runs}
        if not own:
            continue
        after = {seed: values(run, "aligned") for seed, run in own.items()}
        before = {seed: values(run, "base") for seed, run in own.items()} if has_base else {}
        other, against = opponents[one.name], None
        if other is not None:
            both = [seed for seed in own if seed in other.runs and other.runs[seed].run in runs]
            less = [_less(after[seed], values(other.runs[seed], "aligned")) for seed in both]
            against = (title(other), mean(less, (-whole, whole))) if both else None
        results = {seed: runs[run.run]["models"]["aligned"] for seed, run in own.items()}
        rows.append(
            JudgedRow(
                title=title(one),
                score=mean(list(after.values()), metric.scale),
                num_questions=questions,
                base=_mean([_mean(of_seed) for of_seed in before.values()]) if before else None,
                delta=mean([_less(after[seed], before[seed]) for seed in own], (-whole, whole)) if before else None,
                against=against,
                by_seed={seed: _mean(of_seed) for seed, of_seed in after.items()},
                doubts=[f"seed {seed}: {doubt}" for seed, result in results.items() for doubt in doubts(result)],
                no_verdict=(sum(one["n_null"] for one in results.values()), sum(one["n_games"] for one in results.values())),
            )
        )
    return _with(found, rows)


def _with(found: Judged, rows: Sequence[JudgedRow], *notes: str) -> Judged:
    return Judged(found.label, found.metric, found.judge, found.baseline, rows, [*found.notes, *notes])


def _agrees(sums: Mapping[str, _Sums], summary: Record, metric: Metric) -> bool:
    """Whether the sums give the scores that the judge stage worked out."""
    for model, result in summary["models"].items():
        score, own = result.get(metric.key), list(sums.get(model, {}).values())
        if score is not None and not (own and math.isclose(score, _mean(_linear(own)), abs_tol=1e-6)):
            return False
    return True


def _sums(folder: Path, form: str, metric: Metric) -> dict[str, _Sums]:
    """Of each model what its places got, as the project's protocols count them."""
    judgments: dict[str, list[Judgment]] = {}
    for record in read_records(folder / "games.jsonl"):
        one = Judgment.from_json(record)
        judgments.setdefault(one.candidate, []).append(one)
    return {model: _of_model(found, form, metric) for model, found in judgments.items()}


def _of_model(judgments: Sequence[Judgment], form: str, metric: Metric) -> _Sums:
    found: _Sums = {}
    for place, got, weight in _counted(judgments, form, metric):
        before = found.get(place, (0.0, 0.0))
        found[place] = (before[0] + got * weight, before[1] + weight)
    return found


def _counted(judgments: Sequence[Judgment], form: str, metric: Metric) -> list[tuple[tuple[str, int], float, float]]:
    """(place, value, weight) of every judgment that counts. Both comparisons of a question are one place, each turn is one of its own."""
    if metric.name == "win_rate":
        taken = counted(judgments) if form in ("pairwise_hard_prompt", "pairwise_creative_writing") else judgments
        return [((one.question_id, 0), 100 * got, float(count)) for one, got, count in with_battles(taken)]
    if metric.name == "wb_reward":
        return [((one.question_id, 0), 100 * _reward(one), 1.0) for one in judgments]
    rated = [(one, float(one.rating)) for one in judgments if one.rating is not None]
    scale = rescaled if metric.name == "wb_score" else float
    return [((one.question_id, one.number), scale(rating), 1.0) for one, rating in rated]


def _reward(one: Judgment) -> float:
    """WB-Reward's of one comparison. One without a verdict, or with an output that is empty or was cut, adds nothing and is counted."""
    if one.label is None or any(output.is_left_out for output in one.outputs):
        return 0.0
    return REWARDS[one.label] * (-1 if one.number == 1 else 1)


def _linear(sums: Sequence[tuple[float, float]]) -> list[float]:
    """The values v of the module's docstring."""
    total = math.fsum(weight for _, weight in sums)
    ratio, mean_weight = math.fsum(got for got, _ in sums) / total, total / len(sums)
    return [ratio + (got - ratio * weight) / mean_weight for got, weight in sums]


def _less(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
