"""How far two judges agree: the share of equal verdicts, and Cohen's κ, which says how far that is beyond chance.

Cohen 1960, https://doi.org/10.1177/001316446002000104. Comparisons on one question are not independent: intervals resample questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from evaluation.judging.aggregates.judgment import Facts, Judgment, Verdict
from evaluation.judging.aggregates.win_rate import NUM_RESAMPLES, RESAMPLING_SEED
from evaluation.records import Record
from evaluation.statistics import unanimous_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# A question, and its two verdicts.
Pair = tuple[str, Verdict, Verdict]
_LEAST_DEFINED = 0.95


@dataclass(frozen=True)
class Agreement:
    """κ over the verdicts and over their winners alone, and the shares that are equal; None where there is no such number.

    Attributes:
        n_games: The judgments that both judges gave a verdict on. The others are counted by what they lack.
        n_other_answers: Judged by both, but of answers whose lengths or style differ: not the same answers.
        kappa_ci: 95 %, over resampled questions; None of a single question, and where more than 5 % of the resamples have no κ.
    """

    n_games: int
    kappa: float | None
    kappa_winner: float | None
    same_verdict: float | None
    same_winner: float | None
    kappa_ci: list[float] | None
    kappa_winner_ci: list[float] | None
    same_verdict_ci: list[float] | None
    same_winner_ci: list[float] | None
    n_questions: int
    n_first_null: int
    n_second_null: int
    n_first_alone: int
    n_second_alone: int
    n_other_answers: int

    def to_json(self) -> Record:
        return asdict(self)


def cohen_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """κ = (observed − expected) / (1 − expected) of two raters' labels; None where both always give one and the same label."""
    if not pairs:
        return None
    n = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / n
    expected = sum(first[label] * second[label] for label in first) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def judges_agreement(first: Sequence[Judgment], second: Sequence[Judgment]) -> Agreement:
    """The agreement of two judges' judgments of one model. Those without a verdict, or decided without a judge, don't count."""
    ours, theirs = ({one.place: one for one in part if one.asked} for part in (first, second))
    both = [(ours[place], theirs[place]) for place in ours if place in theirs]
    shared = [(one, other) for one, other in both if not _differ(one.facts, other.facts)]
    pairs = [
        (one.question_id, one.verdict, other.verdict)
        for one, other in shared
        if one.verdict is not None and other.verdict is not None
    ]
    winners = [(question, _winner(a), _winner(b)) for question, a, b in pairs]
    kappa_ci, same_ci = _intervals(pairs)
    kappa_winner_ci, same_winner_ci = _intervals(winners)
    return Agreement(
        len(pairs),
        cohen_kappa([(a, b) for _, a, b in pairs]),
        cohen_kappa([(a, b) for _, a, b in winners]),
        _share(pairs),
        _share(winners),
        kappa_ci,
        kappa_winner_ci,
        same_ci,
        same_winner_ci,
        len({question for question, *_ in pairs}),
        sum(one.verdict is None for one, _ in shared),
        sum(other.verdict is None for _, other in shared),
        len(ours) - len(both),
        len(theirs) - len(both),
        len(both) - len(shared),
    )


def _differ(first: Facts, second: Facts) -> bool:
    """Whether two judgments are known to be of other answers. What only one of them records says nothing."""
    sides = ("candidate_style", "baseline_style", "output", "baseline_output")
    known = [(getattr(first, side), getattr(second, side)) for side in sides]
    return any(one is not None and other is not None and one != other for one, other in known)


def _winner(verdict: Verdict) -> Verdict:
    """The side that a comparison's verdict favours; a rating is its own label."""
    return verdict.replace(">>", ">") if isinstance(verdict, str) else verdict


def _share(pairs: Sequence[Pair]) -> float | None:
    return sum(a == b for _, a, b in pairs) / len(pairs) if pairs else None


def _intervals(pairs: Sequence[Pair]) -> tuple[list[float] | None, list[float] | None]:
    """The 95 % intervals of κ and of the share of equal verdicts, by resampled questions."""
    import numpy as np

    questions = {question: number for number, question in enumerate(dict.fromkeys(question for question, *_ in pairs))}
    if len(questions) < 2:
        return None, None
    labels = {label: number for number, label in enumerate(dict.fromkeys(label for _, *both in pairs for label in both))}
    tables = np.zeros((len(questions), len(labels), len(labels)))
    for question, one, other in pairs:
        tables[questions[question], labels[one], labels[other]] += 1
    rng = np.random.default_rng(RESAMPLING_SEED)
    times = rng.multinomial(len(questions), np.full(len(questions), 1 / len(questions)), size=NUM_RESAMPLES)  # (R, Q)
    drawn = np.tensordot(times, tables, axes=1)  # (R, L, L)
    totals = drawn.sum(axis=(1, 2))
    observed = np.trace(drawn, axis1=1, axis2=2) / totals
    expected = (drawn.sum(axis=2) * drawn.sum(axis=1)).sum(axis=1) / totals**2
    defined = expected < 1 - 1e-12
    kappas = (observed[defined] - expected[defined]) / (1 - expected[defined])
    n = len(questions)
    kappa_ci = _middle(kappas, n, -1.0) if defined.mean() >= _LEAST_DEFINED else None
    return kappa_ci, _middle(observed, n, 0.0)


def _middle(values: Floats, n: int, lowest: float) -> list[float]:
    """The 2.5 and 97.5 percentiles; where resampling `n` questions changes nothing, `unanimous_interval` from `lowest` to 1."""
    import numpy as np

    if np.ptp(values) < 1e-9:
        return list(unanimous_interval(float(values[0]), n, lowest, 1.0))
    return [float(bound) for bound in np.percentile(values, [2.5, 97.5])]
