"""MT-bench's protocol: one answer of a conversation of two turns, rated from 1 to 10; the score is the mean over both turns.

A rating is read as `[[n]]`, then as `[n]`; a reply that holds neither is counted as one without a verdict. https://arxiv.org/abs/2306.05685
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from evaluation.judging.aggregates.judgment import Facts, Judgment
from evaluation.judging.aggregates.style_control import style
from evaluation.judging.aggregates.win_rate import distrust, paired_delta
from evaluation.judging.replies import rating
from evaluation.records import Record
from evaluation.statistics import bootstrap_interval
from evaluation.types import Item

COMPARES = False
LABELS = {f"[[{score}]]": float(score) for score in range(1, 11)}
_SCALE = (1.0, 10.0)
REASONS = ("explanation",)
VERDICT = "rating"

TASK = (
    "You rate the answer that an assistant gave at the end of a conversation: is it helpful, to the point, correct, deep enough and "
    "as detailed as it has to be? Where a reference answer is given, compare with it and name what is wrong. Rate the last answer "
    "alone, from 1 to 10."
)
ASK_TEXT = "Explain your rating in a few sentences and end with it in double brackets, for example [[5]]."
# Digits in one way alone: a reply may hold a hundred thousand of them.
_RATINGS = (re.compile(r"\[\[(\d+(?:\.\d*)?)\]\]"), re.compile(r"\[(\d+(?:\.\d*)?)\]"))


def texts(item: Item, turn: int) -> list[tuple[str, str]]:
    """The reference answers of all turns up to this one, where the question has them."""
    return [
        (f"Reference answer of turn {number}", reference)
        for number, reference in enumerate(item.get("references", [])[:turn], start=1)
    ]


def parse(reply: str) -> float | None:
    """The rating in brackets; None where there is none from 1 to 10."""
    for pattern in _RATINGS:
        found = pattern.search(reply)
        if found:
            return rating(found.group(1))
    return None


def facts(answer: str, baseline: str | None) -> Facts:
    """The answer's length."""
    return Facts(candidate_style=style(answer))


def aggregate(
    judgments: Sequence[Judgment], *, num_expected: int, orders: str, demonstration: bool, questions: Sequence[Item]
) -> Record:
    """The mean rating from 1 to 10 over both turns, with its interval by question."""
    rated = [(one, one.rating) for one in judgments if one.rating is not None]
    values = [float(rating) for _, rating in rated]
    clusters = [one.question_id for one, _ in rated]
    num_null = len(judgments) - len(rated)
    null_share = num_null / len(judgments) if judgments else 0.0
    judged = {one.question_id for one in judgments}
    reason = distrust(len(rated), null_share, demonstration=demonstration, ratings=values)
    return {
        "score": _mean(values),
        "ci": _interval(values, None),
        "ci_clustered": _interval(values, clusters),
        "by_turn": {str(turn): _mean([rating for one, rating in rated if one.number == turn]) for turn in (1, 2)},
        "by_category": {
            category: _mean([rating for one, rating in rated if one.category == category])
            for category in dict.fromkeys(one.category for one, _ in rated if one.category)
        },
        "n": len(judged),
        "n_questions": len(judged),
        "n_games": len(judgments),
        "n_unjudged": 0,
        "n_null": num_null,
        "null_share": null_share,
        "n_expected": num_expected,
        "partial": len(judged) < num_expected or len(judgments) < 2 * len(judged),
        "position_bias": None,
        "trusted": not reason,
        "untrusted_reason": reason,
        "demonstration": demonstration,
    }


def across(results: Mapping[str, Record], judgments: Mapping[str, Sequence[Judgment]]) -> Record:
    """What an aligned model gained over its base, in rating points, by question and turn."""
    if not {"base", "aligned"} <= set(judgments):
        return {}
    base, aligned = ({one.place: one.rating for one in judgments[model]} for model in ("base", "aligned"))
    return paired_delta(base, aligned, scale=1, clusters=lambda place: place[0])


def _interval(values: Sequence[float], clusters: Sequence[str] | None) -> list[float] | None:
    ci = bootstrap_interval(values, clusters, scale=_SCALE)
    # The statistics module speaks in percent.
    return None if ci is None else [bound / 100 for bound in ci]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
