"""Arena-Hard's protocol: two answers to one question, five labels; the baseline is A in the first comparison and B in the second.

Free text is read by upstream's rule: exactly one distinct label in double brackets. A judge whose reply has none is asked once to go on.
https://arxiv.org/abs/2406.11939 · https://github.com/lmarena/arena-hard-auto
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from evaluation.judging.aggregates.judgment import Facts, Judgment
from evaluation.judging.aggregates.style_control import style, with_style_control
from evaluation.judging.aggregates.win_rate import VERDICTS, score_delta, with_battles
from evaluation.judging.aggregates.win_rate import aggregate as win_rate
from evaluation.judging.replies import conversation_texts
from evaluation.records import Record
from evaluation.types import Item

COMPARES = True
ORDERS = "both"
LABELS = {f"[[{verdict}]]": verdict for verdict in VERDICTS}
LETTERS = {"A": "A>B", "B": "B>A"}
REASONS = ("reasons",)
VERDICT = "verdict"

TASK = (
    "You are comparing how well two assistants, A and B, answered the same request. First think of what a good answer would "
    "contain. Then weigh, in this order: whether each answer is correct, whether it does what was asked, whether it is clear and "
    "no longer than it needs to be, and whether something important is missing. Neither the order of the answers nor their "
    "length is an argument.\n\n"
    "There are five verdicts:\n"
    "[[A>>B]] A is much better\n[[A>B]] A is slightly better\n[[A=B]] both are about equally good\n"
    "[[B>A]] B is slightly better\n[[B>>A]] B is much better"
)
ASK_TEXT = "Give your reasons in a few sentences and end with exactly one of the five verdicts, in its double brackets."
ASK_AGAIN = (
    "Your judgment holds no verdict yet. Continue it and end with exactly one of the five verdicts, in its double brackets."
)
_LABEL = re.compile(r"\[\[([AB<>=]+)\]\]")


def texts(item: Item, turn: int) -> list[tuple[str, str]]:
    """What the judge reads before the answers, as (heading, text)."""
    return conversation_texts(item["conversation"], "Request")


def parse(reply: str) -> str | None:
    """The label of a reply, without brackets; None where it has no label, several different ones, or an unknown one."""
    found = set(_LABEL.findall(reply))
    label = found.pop() if len(found) == 1 else None
    return label if label in VERDICTS else None


def wants_more(reply: str) -> bool:
    """Whether the reply has no label at all. One with two different labels is an answer, though it doesn't count."""
    return _LABEL.search(reply) is None


def facts(answer: str, baseline: str | None) -> Facts:
    """The style of both answers: for lengths and style control."""
    assert baseline is not None
    return Facts(candidate_style=style(answer), baseline_style=style(baseline))


def aggregate(
    judgments: Sequence[Judgment], *, num_expected: int, orders: str, demonstration: bool, questions: Sequence[Item]
) -> Record:
    """The win rate in percent."""
    return win_rate(judgments, num_expected=num_expected, orders=orders, demonstration=demonstration)


def across(results: Mapping[str, Record], judgments: Mapping[str, Sequence[Judgment]]) -> Record:
    """What an aligned model gained over its base against the same baseline; adds `style_controlled` to every result."""
    with_style_control(results, {model: with_battles(found) for model, found in judgments.items()})
    return score_delta(judgments["base"], judgments["aligned"]) if {"base", "aligned"} <= set(judgments) else {}
