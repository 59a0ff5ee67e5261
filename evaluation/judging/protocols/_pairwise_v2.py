"""What Arena-Hard v2.0's two protocols share: labels, how a reply is read, what the verdicts add up to.

https://github.com/lmarena/arena-hard-auto
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from evaluation.judging.aggregates import arena_hard_v2
from evaluation.judging.aggregates.judgment import Judgment
from evaluation.judging.aggregates.style_control_v2 import with_style_control
from evaluation.judging.aggregates.win_rate import LABELS_V2, score_delta, with_battles
from evaluation.records import Record
from evaluation.types import Item

CHOICES = (
    "There are five verdicts:\n"
    "[[A>>B]] A is much better\n[[A>B]] A is slightly better\n[[A=B]] both are about equally good\n"
    "[[B>A]] B is slightly better\n[[B>>A]] B is much better"
)
ASK_TEXT = "Explain your verdict and end with exactly one of the five, in its double brackets."
_EXPRESSIONS = (re.compile(r"\[\[([AB<>=]+)\]\]"), re.compile(r"\[([AB<>=]+)\]"))


def last_label(reply: str) -> str | None:
    """The verdict of the last label in double brackets, or without one, of the last in single; None where that is no verdict's."""
    for expression in _EXPRESSIONS:
        found = expression.findall(reply.upper())
        if found:
            return LABELS_V2.get(found[-1])
    return None


def aggregate(
    judgments: Sequence[Judgment], *, num_expected: int, orders: str, demonstration: bool, questions: Sequence[Item]
) -> Record:
    """The win rate in percent, over the questions with both verdicts."""
    return arena_hard_v2.aggregate(
        arena_hard_v2.counted(judgments), num_expected=num_expected, orders=orders, demonstration=demonstration
    )


def across(results: Mapping[str, Record], judgments: Mapping[str, Sequence[Judgment]]) -> Record:
    """What an aligned model gained over its base against the same baseline; adds `style_controlled` to every result."""
    counted = {model: arena_hard_v2.counted(found) for model, found in judgments.items()}
    with_style_control(results, {model: with_battles(found) for model, found in counted.items()})
    return score_delta(counted["base"], counted["aligned"]) if {"base", "aligned"} <= set(counted) else {}
