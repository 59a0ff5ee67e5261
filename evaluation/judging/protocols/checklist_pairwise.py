"""WildBench's WB-Reward protocol: two answers to the last turn of a conversation, with a checklist; five choices.

https://arxiv.org/abs/2406.04770 · https://github.com/allenai/WildBench
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.judging.aggregates.judgment import Facts, Judgment
from evaluation.judging.aggregates.wildbench import aggregate_rewards, compared_output_facts
from evaluation.judging.protocols.checklist_score import MAX_WORDS as MAX_WORDS
from evaluation.judging.protocols.checklist_score import tasks_of
from evaluation.judging.protocols.checklist_score import texts as texts
from evaluation.judging.replies import json_field
from evaluation.records import Record
from evaluation.types import Item

COMPARES = True
ORDERS = "one"  # in a random order
LABELS = {"A++": "A>>B", "A+": "A>B", "A=B": "A=B", "B+": "B>A", "B++": "B>>A"}
LETTERS = {"A": "A>B", "B": "B>A"}
REASONS = ("analysis of A", "analysis of B", "reason of A=B", "reason of A>B", "reason of B>A")
VERDICT = "choice"

TASK = (
    "Two assistants, A and B, have answered the last message of a conversation. Go through the checklist, where there is one, and say "
    "what each answer does well and where it falls short, then choose. Longer is not better, and the order of the answers means "
    "nothing.\n\n"
    "The choices are:\nA++ A is much better\nA+ A is slightly better\nA=B both are about equally good\n"
    "B+ B is slightly better\nB++ B is much better"
)
ASK_TEXT = (
    "Reply with one JSON object and nothing else. Its keys are "
    + ", ".join(f'"{name}"' for name in REASONS)
    + ', each with your words, and last "choice", with exactly one of the five choices.'
)


def parse(reply: str) -> str | None:
    """The verdict of a JSON reply; None where its choice isn't one of the five."""
    choice = json_field(reply, VERDICT)
    return LABELS.get(choice.strip()) if isinstance(choice, str) else None


def facts(answer: str, baseline: str | None) -> Facts:
    """Length and state of both answers. Where one is empty or was cut, the comparison is worth nothing and no judge is asked."""
    assert baseline is not None
    output, baseline_output = compared_output_facts(answer), compared_output_facts(baseline)
    is_void = output.is_void or baseline_output.is_void
    return Facts(output=output, baseline_output=baseline_output, verdict="A=B" if is_void else None)


def aggregate(
    judgments: Sequence[Judgment], *, num_expected: int, orders: str, demonstration: bool, questions: Sequence[Item]
) -> Record:
    """WB-Reward; by task where the questions have WildBench's tags."""
    return aggregate_rewards(judgments, num_expected=num_expected, tasks=tasks_of(questions), demonstration=demonstration)
