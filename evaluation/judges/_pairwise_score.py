"""From games to a score: weighted win rate with its intervals, and what says whether the judge can be trusted.

With one baseline and no penalty the Bradley–Terry strength that Arena-Hard reports is the weighted mean of the games, a much
better answer counting three times. Rows of one question are not independent: the interval that resamples questions stands
beside the published one, which resamples rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation._records import Record

# A label, who it favours (+1: A, −1: B, 0: neither), and how many battles it counts as.
VERDICTS = {"[[A>>B]]": (1, 3), "[[A>B]]": (1, 1), "[[A=B]]": (0, 1), "[[B>A]]": (-1, 1), "[[B>>A]]": (-1, 3)}

NUM_RESAMPLES = 1000
MAX_NULL_SHARE = 0.05
MAX_POSITION_BIAS = 0.25


def aggregate(games: Sequence[Record], *, num_expected: int, demonstration: bool, seed: int = 0) -> Record:
    """The candidate's result over its games: records with `question_id`, `game` (in 1 the candidate is B, in 2 A), `verdict`.

    Score and intervals are percentages. `position_bias` is the mean of +1 for a verdict for A, −1 for B and 0 for neither, over
    questions with both verdicts: 1 for a judge that always says A, 0 for one that does not care for the order.
    `order_disagreement` is the share of these questions whose two verdicts name different winners.
    """
    rows = [row for game in games if (row := _row(game)) is not None]
    num_null = len(games) - len(rows)
    both = _both_orders(games)
    bias = sum(first + second for first, second in both) / (2 * len(both)) if both else None
    disagreement = sum(first != -second for first, second in both) / len(both) if both else None
    questions = {game["question_id"] for game in games}
    complete = len(games) == 2 * len(questions) and len(questions) >= num_expected
    ci, ci_clustered = _intervals(rows, seed)
    reason = _distrust(len(rows), num_null / len(games) if games else 0.0, bias, demonstration)
    return {
        "score": _score(rows),
        "ci": ci,
        "ci_clustered": ci_clustered,
        "n_games": len(games),
        "n_null": num_null,
        "null_share": num_null / len(games) if games else 0.0,
        "n_questions": len(questions),
        "n_expected": num_expected,
        "partial": not complete,
        "position_bias": bias,
        "order_disagreement": disagreement,
        "trusted": not reason,
        "untrusted_reason": reason,
        "demonstration": demonstration,
    }


_Row = tuple[str, float, int]  # question, what the candidate got (1, ½, 0), battles


def _row(game: Record) -> _Row | None:
    if game["verdict"] is None:
        return None
    favours, battles = VERDICTS[f"[[{game['verdict']}]]"]
    candidate = -favours if game["game"] == 1 else favours
    return game["question_id"], (1 + candidate) / 2, battles


def _score(rows: Sequence[_Row]) -> float | None:
    total = sum(battles for _, _, battles in rows)
    return 100 * sum(got * battles for _, got, battles in rows) / total if total else None


def _both_orders(games: Sequence[Record]) -> list[tuple[int, int]]:
    """Per question with two verdicts, whom each favours by position."""
    favours: dict[str, dict[int, int]] = {}
    for game in games:
        if game["verdict"] is not None:
            favours.setdefault(game["question_id"], {})[game["game"]] = VERDICTS[f"[[{game['verdict']}]]"][0]
    return [(by_game[1], by_game[2]) for by_game in favours.values() if len(by_game) == 2]


def _intervals(rows: Sequence[_Row], seed: int) -> tuple[list[float] | None, list[float] | None]:
    """Percentile bootstrap at 95 %, over battles and over questions."""
    if not rows:
        return None, None
    import numpy as np

    rng = np.random.default_rng(seed)
    battles = np.repeat([got for _, got, _ in rows], [count for _, _, count in rows])
    values, counts = np.unique(battles, return_counts=True)
    drawn = rng.multinomial(len(battles), counts / len(battles), size=NUM_RESAMPLES)  # (R, values)
    scores = 100 * drawn @ values / len(battles)

    names = {question: index for index, question in enumerate(dict.fromkeys(question for question, _, _ in rows))}
    got, weight = np.zeros(len(names)), np.zeros(len(names))
    for question, value, count in rows:
        got[names[question]] += value * count
        weight[names[question]] += count
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=NUM_RESAMPLES)  # (R, questions)
    clustered = 100 * (times @ got) / (times @ weight)
    return _percentiles(scores), _percentiles(clustered)


def _percentiles(scores: Any) -> list[float]:
    import numpy as np

    return [float(bound) for bound in np.percentile(scores, [2.5, 97.5])]


def _distrust(num_verdicts: int, null_share: float, bias: float | None, demonstration: bool) -> str:
    """Why the score must not be believed; empty where nothing speaks against it."""
    reasons = []
    if demonstration:
        reasons.append("a demonstration: the judge is too small to judge")
    if not num_verdicts:
        reasons.append("no verdict")
    elif null_share > MAX_NULL_SHARE:
        reasons.append(f"{null_share:.0%} of the games have no verdict (at most {MAX_NULL_SHARE:.0%})")
    if bias is None and num_verdicts:
        reasons.append("no question was judged in both orders")
    if bias is not None and abs(bias) > MAX_POSITION_BIAS:
        reasons.append(f"position bias {bias:+.2f} (at most {MAX_POSITION_BIAS} either way)")
    return "; ".join(reasons)
