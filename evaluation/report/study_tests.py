"""The comparisons of a study: a column of one setting less that of its opponent, paired by seed, all in one family of tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evaluation.crossed import CrossedMean, seeds_mean
from evaluation.formats import interval, signed
from evaluation.paired import ALPHA, NOISE_POINTS
from evaluation.report.study_facts import COLUMNS, Column, StudyFacts
from evaluation.report.sweep_results import REFERENCE, Tested, difference
from evaluation.report.swept import SweptRun
from evaluation.report.swept_scores import SweptScores
from evaluation.statistics import holm

# Of the benchmarks' items, and so with the part of the items in their intervals; the others are figures that a training has once.
_OF_ITEMS = ("gain", "tax", "tokens")
# Where answers flip by chance alone, a difference must be a point or more.
_OF_ANSWERS = ("gain", "tax")

# The figures of each run's training and dev set, in the unit of their columns.
Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Comparison:
    """A setting's column less its opponent's.

    Attributes:
        setting, against: the titles of both.
        found: with p after Holm's correction over all comparisons of the study; None where nothing can be compared, for which `why` has
            the reason. Its verdict is `gain` where there is more of the column, whatever that is worth, `loss` where there is less.
        is_of_reference: whether the opponent is the BNF with which other objectives are compared, so that it says where BNF loses.
    """

    setting: str
    against: str
    column: Column
    found: Tested | None
    why: str
    is_of_reference: bool

    @property
    def in_words(self) -> str:
        """`+4.1 [+1.0, +7.2] points of gain`; empty where nothing was compared."""
        return "" if self.found is None else in_words(self.column, self.found.of)


def in_words(column: Column, found: CrossedMean) -> str:
    shown = f"{signed(found.mean, column.digits)} {interval(found.ci, column.digits, with_sign=True)}".rstrip()
    return f"{shown} {column.unit} of {column.of}" if column.unit else f"{shown} in {column.of}"


def tested_columns(study: StudyFacts, scores: SweptScores) -> list[Column]:
    """The columns that the study tests. Without benchmarks those of benchmarks are none."""
    return [
        column
        for name in study.tests
        for column in COLUMNS[name]
        if column.is_tested and (scores.labels or name not in _OF_ITEMS)
    ]


def compare(
    pairs: Sequence[tuple[str, str]],
    settings: Mapping[str, Sequence[SweptRun]],
    titles: Mapping[str, str],
    tests: Sequence[Column],
    scores: SweptScores,
    figures: Figures,
) -> list[Comparison]:
    """Each pair in each of the columns, corrected for all of them together.

    Args:
        pairs: names of settings.
        settings: the runs of each setting that have a result.
        figures: by run.
    """
    drafts = [
        (one, other, column, *_found(one, other, column, settings, scores, figures))
        for one, other in pairs
        for column in tests
        if not (column.own_scale and _objective(settings[one]) != _objective(settings[other]))
    ]
    corrected = iter(holm([found.p for *_, found, _ in drafts if found is not None and found.p is not None]))
    references = _of_reference(pairs, settings)
    compared = []
    for one, other, column, found, why in drafts:
        tested = None
        if found is not None:
            p = None if found.p is None else next(corrected)
            tested = Tested(found, p, _verdict(column, found, p))
        compared.append(Comparison(titles[one], titles[other], column, tested, why, (one, other) in references))
    return compared


def _found(
    one: str,
    other: str,
    column: Column,
    settings: Mapping[str, Sequence[SweptRun]],
    scores: SweptScores,
    figures: Figures,
) -> tuple[CrossedMean | None, str]:
    ours, theirs = ({run.seed: run for run in settings[name]} for name in (one, other))
    seeds = [seed for seed in ours if seed in theirs]
    if not seeds:
        return None, "no seed has a result of both"
    scored = {setting.name: setting for setting in scores.settings}
    if one in scored and other in scored and scored[one].targets != scored[other].targets:
        return None, "their targets are others"
    if column.key in _OF_ITEMS:
        found = difference(scored[one], scored[other], scores, column.key) if one in scored and other in scored else None
        return found, "" if found is not None else "there is no such figure"
    if any((column.key in ours[seed].of_last_round) != (column.key in theirs[seed].of_last_round) for seed in seeds):
        return None, "one of the two figures is of a last round alone"
    values = list(_differences(column.key, [(figures[ours[seed].run], figures[theirs[seed].run]) for seed in seeds]))
    return (seeds_mean(values), "") if values else (None, "there is no such figure")


def _differences(key: str, both: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> Iterator[float]:
    for ours, theirs in both:
        if key in ours and key in theirs:
            yield ours[key] - theirs[key]


def _verdict(column: Column, found: CrossedMean, p: float | None) -> str:
    least = NOISE_POINTS if column.key in _OF_ANSWERS else 0.0
    if p is None or math.isnan(p) or p >= ALPHA or abs(found.mean) < least:
        return "noise"
    return "gain" if found.mean > 0 else "loss"


def _of_reference(pairs: Sequence[tuple[str, str]], settings: Mapping[str, Sequence[SweptRun]]) -> set[tuple[str, str]]:
    """The pairs of another objective with BNF, or without BNF with the first opponent's; where all have one objective, all pairs."""
    objectives = {name: _objective(runs) for name, runs in settings.items()}
    between = [(one, other) for one, other in pairs if objectives[one] != objectives[other]]
    if not between:
        return set(pairs)
    opponents = [objectives[other] for _, other in between]
    reference = REFERENCE if REFERENCE in opponents else opponents[0]
    return {(one, other) for one, other in between if objectives[other] == reference}


def _objective(runs: Sequence[SweptRun]) -> str | None:
    return runs[0].objective if runs else None
