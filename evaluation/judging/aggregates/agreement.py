"""How far two judges agree beyond chance: Cohen's κ over the comparisons or answers that both judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

from evaluation.judging.aggregates.judgment import Judgment, Verdict
from evaluation.records import Record


@dataclass(frozen=True)
class Agreement:
    """κ over the verdicts and over their winners alone, and the share of equal verdicts; None where there is no such number."""

    n_games: int
    kappa: float | None
    kappa_winner: float | None
    same_verdict: float | None

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
    verdicts = {one.place: one.verdict for one in second if one.asked and one.verdict is not None}
    pairs = [
        (one.verdict, other)
        for one in first
        if one.asked and one.verdict is not None and (other := verdicts.get(one.place)) is not None
    ]
    return Agreement(
        len(pairs),
        cohen_kappa(pairs),
        cohen_kappa([(_winner(a), _winner(b)) for a, b in pairs]),
        sum(a == b for a, b in pairs) / len(pairs) if pairs else None,
    )


def _winner(verdict: Verdict) -> Verdict:
    """The side that a comparison's verdict favours; a rating is its own label."""
    return verdict.replace(">>", ">") if isinstance(verdict, str) else verdict
