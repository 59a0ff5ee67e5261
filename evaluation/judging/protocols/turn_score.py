"""MT-bench's form: one answer of a conversation of two turns, rated from 1 to 10; the score is the mean over both turns.

Read as `[[n]]`, then as `[n]`; what holds neither is unparsed and counted. https://arxiv.org/abs/2306.05685
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from evaluation.judging.aggregates.style_control import style
from evaluation.judging.aggregates.win_rate import distrust, paired_delta
from evaluation.judging.replies import rating
from evaluation.records import Record
from evaluation.statistics import bootstrap_interval
from evaluation.types import Item

COMPARES = False
LABELS = {f"[[{score}]]": float(score) for score in range(1, 11)}
SCALE = (1.0, 10.0)
LETTERS = None
REASONS = ("explanation",)
VERDICT = "rating"

TASK = (
    "You rate the answer that an assistant gave at the end of a conversation: is it helpful, to the point, correct, deep enough and "
    "as detailed as it has to be? Where a reference answer is given, compare with it and name what is wrong. Rate the last answer "
    "alone, from 1 to 10."
)
ASK_TEXT = "Explain your rating in a few sentences and end with it in double brackets, for example [[5]]."
ASK_AGAIN = None
_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


def texts(item: Item, turn: int) -> list[tuple[str, str]]:
    """The references of all turns up to this one, where the question has them."""
    return [
        (f"Reference answer of turn {number}", reference)
        for number, reference in enumerate(item.get("references", [])[:turn], start=1)
    ]


def parse(reply: str) -> float | None:
    for pattern in _RATINGS:
        found = pattern.search(reply)
        if found:
            return rating(found.group(1))
    return None


def wants_more(reply: str) -> bool:
    return False


def facts(answer: str, baseline: str | None) -> Record:
    """The answer's length."""
    return {"candidate_style": style(answer)}


def aggregate(
    records: Sequence[Record], *, num_expected: int, orders: str, demonstration: bool, questions: Sequence[Item]
) -> Record:
    """The mean rating from 1 to 10 over both turns, with its interval by question; records with `question_id`, `game`, `verdict`."""
    rated = [record for record in records if record["verdict"] is not None]
    num_null = len(records) - len(rated)
    judged = {record["question_id"] for record in records}
    reason = distrust(len(rated), num_null / len(records) if records else 0.0, demonstration=demonstration)
    if len(rated) > 1 and len({record["verdict"] for record in rated}) == 1:
        reason = "; ".join(filter(None, [reason, f"every answer has the score {rated[0]['verdict']:g}"]))
    values = [float(record["verdict"]) for record in rated]
    clusters = [record["question_id"] for record in rated]
    return {
        "score": _mean(values),
        "ci": _interval(values, None),
        "ci_clustered": _interval(values, clusters),
        "by_turn": {str(turn): _mean([r["verdict"] for r in rated if r["game"] == turn]) for turn in (1, 2)},
        "by_category": {
            category: _mean([r["verdict"] for r in rated if r.get("category") == category])
            for category in dict.fromkeys(r["category"] for r in rated if r.get("category"))
        },
        "n": len(judged),
        "n_questions": len(judged),
        "n_games": len(records),
        "n_unjudged": 0,
        "n_null": num_null,
        "null_share": num_null / len(records) if records else 0.0,
        "n_expected": num_expected,
        "partial": len(judged) < num_expected or len(records) < 2 * len(judged),
        "position_bias": None,
        "trusted": not reason,
        "untrusted_reason": reason,
        "demonstration": demonstration,
    }


def across(results: Mapping[str, Record], games: Mapping[str, Sequence[Record]]) -> Record:
    """What an aligned model gained over its base, in rating points, by question and turn."""
    if not {"base", "aligned"} <= set(games):
        return {}
    ratings = [
        {(record["question_id"], record["game"]): record["verdict"] for record in games[model]} for model in ("base", "aligned")
    ]
    return paired_delta(*ratings, scale=1, clusters=lambda place: place[0])


def _interval(values: Sequence[float], clusters: Sequence[str] | None) -> list[float] | None:
    ci = bootstrap_interval(values, clusters, scale=SCALE)
    # The statistics module speaks in percent.
    return None if ci is None else [bound / 100 for bound in ci]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
