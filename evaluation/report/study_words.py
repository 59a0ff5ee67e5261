"""What a study shows and what it doesn't, in sentences that go as far as the corrected intervals and no further."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evaluation.crossed import CrossedMean
from evaluation.formats import difference, p_value
from evaluation.report.answer import Answer
from evaluation.report.study_facts import Column
from evaluation.report.study_tests import Comparison
from evaluation.report.sweep_results import REFERENCE, SweepResults
from evaluation.report.sweep_words import Compared, answer_of
from evaluation.report.swept import SweepFacts


@dataclass(frozen=True)
class Reading:
    """What holds after the correction, what doesn't, the family that the correction is over, and what was tested, in a sentence each."""

    holds: Sequence[str]
    open: Sequence[str]
    family: str
    tested: Sequence[str]


def reading(comparisons: Sequence[Comparison], tests: Sequence[Column], results: SweepResults) -> Reading:
    """Of the differences between settings, and of each setting from the base model."""
    holds, open_ = [], []
    for one in comparisons:
        pair = f"{one.setting} against {one.against}"
        if one.found is None:
            open_.append(f"{pair} in {one.column.of}: not compared, as {one.why}.")
            continue
        p = "no p" if one.found.p_holm is None else f"p {p_value(one.found.p_holm)}"
        said = f"{pair}: {one.in_words}, {p}, {_seeds(one.found.of)}"
        if one.found.verdict == "noise":
            open_.append(f"{said}: not told apart.")
        else:
            holds.append(f"{said}: {'more' if one.found.verdict == 'gain' else 'less'}.")
    for row in results.rows:
        within = []
        for name, found in row.by_benchmark.items():
            said = f"{results.scores.labels[name]} {difference(found.of.mean, found.of.ci)} points, p {p_value(found.p_holm)}"
            if found.verdict == "noise":
                within.append(said)
            else:
                holds.append(f"{row.title} against the base model: {said}: a {found.verdict}.")
        open_ += [f"{row.title} against the base model within noise: {'; '.join(within)}."] if within else []
    return Reading(holds, open_, _family(comparisons, tests, results), list(_tested(comparisons, tests)))


def study_answer(
    comparisons: Sequence[Comparison],
    tests: Sequence[Column],
    results: SweepResults,
    facts: SweepFacts,
    seeds: Mapping[str, int],
) -> Answer:
    """What the page says first: where BNF loses, in those of the tested columns of which more is better.

    Args:
        seeds: how many seeds each setting has, by title.
    """
    kinds = [column for column in tests if column.is_better]
    those = [one for one in comparisons if one.is_of_reference and one.column in kinds]
    compared = [
        Compared(one.setting, one.against, one.column.of, one.found, one.column.unit, one.column.digits)
        for one in those
        if one.found is not None
    ]
    opponents = list(dict.fromkeys(one.against for one in those))
    name = opponents[0] if len(opponents) == 1 else REFERENCE if opponents and _are_of(REFERENCE, opponents) else None
    return answer_of(
        compared, results, facts, name=name, kinds=[column.of for column in kinds], seeds=None if results.rows else seeds
    )


def _are_of(objective: str, titles: Sequence[str]) -> bool:
    return all(title.startswith(objective) for title in titles)


def _tested(comparisons: Sequence[Comparison], tests: Sequence[Column]) -> Iterator[str]:
    """What was compared with what, and in which columns; those of an objective's own scale apart."""
    for columns in ([one for one in tests if not one.own_scale], [one for one in tests if one.own_scale]):
        those = [one for one in comparisons if one.column in columns]
        by_opponent: dict[str, list[str]] = {}
        for one in those:
            settings = by_opponent.setdefault(one.against, [])
            settings += [one.setting] if one.setting not in settings else []
        if those:
            pairs = "; ".join(f"{_and(settings)} against {opponent}" for opponent, settings in by_opponent.items())
            scale = ", which has a scale of its own for each objective" if columns[0].own_scale else ""
            yield f"Tested: {_and([column.of for column in columns])}{scale}. Compared: {pairs}."


def _family(comparisons: Sequence[Comparison], tests: Sequence[Column], results: SweepResults) -> str:
    each = max((len(row.by_benchmark) for row in results.rows), default=0)
    number = sum(one.found is not None and one.found.p_holm is not None for one in comparisons)
    kinds = _and([column.of for column in tests if any(one.column == column for one in comparisons)])
    between = f"the {number} comparisons of {kinds} between settings" if number > 1 else "the one comparison of settings"
    parts = [between] if number else []
    parts += [f"against the base model, over each setting's {each} benchmark{'s' if each != 1 else ''}"] if each else []
    if not parts:
        return "Nothing was compared."
    of_answers = " and, of gain, tax and benchmarks, it is a point or more"
    least = of_answers if each or any(column.key in ("gain", "tax") for column in tests) else ""
    of_seeds = any(one.found is not None and one.found.of.num_items == 0 for one in comparisons)
    paired = " What a training has once is compared by the paired t test over the seeds that both have." if of_seeds else ""
    return (
        f"p is after Holm's correction. Its family: {'; '.join(parts)}. A difference holds where p is below 0.05{least}.{paired} The other "
        "columns are not tested: their intervals are of each setting alone, and uncorrected."
    )


def _seeds(found: CrossedMean) -> str:
    return f"{found.num_seeds} seed{'s' if found.num_seeds != 1 else ''}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
