"""What a study shows and what it doesn't, in sentences that go as far as the corrected intervals and no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.crossed import CrossedMean
from evaluation.formats import difference, p_value
from evaluation.report.sweep_results import Row, SweepResults, Tested


@dataclass(frozen=True)
class Reading:
    """What holds after the correction, what doesn't, and the family that the correction is over."""

    holds: Sequence[str]
    open: Sequence[str]
    family: str


def reading(results: SweepResults) -> Reading:
    """Of the differences between settings, and of each setting from the base model."""
    holds, open_ = [], []
    for row, against, kind, found in _between(results):
        said = f"{row.title} against {against}: {_points(found.of)} of {kind}, p {p_value(found.p_holm)}, {_seeds(found.of)}"
        if found.verdict == "noise":
            open_.append(f"{said}: not told apart.")
        else:
            holds.append(f"{said}: {'more' if found.verdict == 'gain' else 'less'}.")
    for row in results.rows:
        within = []
        for name, found in row.by_benchmark.items():
            said = f"{results.scores.labels[name]} {_points(found.of)}, p {p_value(found.p_holm)}"
            if found.verdict == "noise":
                within.append(said)
            else:
                holds.append(f"{row.title} against the base model: {said}: a {found.verdict}.")
        open_ += [f"{row.title} against the base model within noise: {'; '.join(within)}."] if within else []
    return Reading(holds, open_, _family(results))


def _between(results: SweepResults) -> list[tuple[Row, str, str, Tested]]:
    return [
        (row, row.against.title, kind, found)
        for row in results.rows
        if row.against is not None
        for kind, found in (("gain", row.against.gain), ("tax", row.against.tax))
        if found is not None
    ]


def _family(results: SweepResults) -> str:
    each = max((len(row.by_benchmark) for row in results.rows), default=0)
    number = results.num_compared
    between = f"the {number} comparisons of gain and tax between settings" if number > 1 else "the one comparison of settings"
    parts = [between] if number else []
    parts += [f"against the base model, over each setting's {each} benchmark{'s' if each != 1 else ''}"] if each else []
    if not parts:
        return "Nothing was compared."
    return (
        f"p is after Holm's correction. Its family: {'; '.join(parts)}. A difference holds where p is below 0.05 and it is a point or "
        "more. The other columns are not tested: their intervals are of each setting alone, and uncorrected."
    )


def _seeds(found: CrossedMean) -> str:
    return f"{found.num_seeds} seed{'s' if found.num_seeds != 1 else ''}"


def _points(found: CrossedMean) -> str:
    return f"{difference(found.mean, found.ci)} points"
