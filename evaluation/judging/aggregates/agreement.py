"""How far two judges agree beyond chance: Cohen's κ over the games that both judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from evaluation.judging.aggregates.asked import was_asked
from evaluation.records import Record


def cohen_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """κ = (observed − expected) / (1 − expected) of two raters' labels; None where both always give one and the same label."""
    if not pairs:
        return None
    n = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / n
    expected = sum(first[label] * second[label] for label in first) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def judges_agreement(first: Sequence[Record], second: Sequence[Record]) -> Record:
    """κ over the verdicts of the same games, and over their winners alone; games that one of them left null, or that were decided
    without them, don't count."""
    verdicts = {_place(game): game["verdict"] for game in second if _is_judged(game)}
    pairs = [(game["verdict"], verdicts[_place(game)]) for game in first if _is_judged(game) and _place(game) in verdicts]
    return {
        "n_games": len(pairs),
        "kappa": cohen_kappa(pairs),
        "kappa_winner": cohen_kappa([(_winner(a), _winner(b)) for a, b in pairs]),
        "same_verdict": sum(a == b for a, b in pairs) / len(pairs) if pairs else None,
    }


def _is_judged(game: Record) -> bool:
    return was_asked(game) and game["verdict"] is not None


def _place(game: Record) -> Hashable:
    return game["question_id"], game["game"]


def _winner(verdict: str | float) -> Hashable:
    """Of a pairwise verdict the side it favours; a score is its own label."""
    return verdict.replace(">>", ">") if isinstance(verdict, str) else verdict
