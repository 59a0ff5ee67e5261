"""Arena-Hard v2.0's protocol of hard prompts: two answers, five labels, the judge's own answer first; the baseline is A, then B.

A reply's last label counts, and both verdicts of a question or none. https://arxiv.org/abs/2406.11939 ·
https://github.com/lmarena/arena-hard-auto
"""

from __future__ import annotations

from evaluation.judging.protocols._pairwise_v2 import ASK_TEXT as ASK_TEXT
from evaluation.judging.protocols._pairwise_v2 import CHOICES, last_label
from evaluation.judging.protocols._pairwise_v2 import across as across
from evaluation.judging.protocols._pairwise_v2 import aggregate as aggregate
from evaluation.judging.protocols.pairwise import LABELS as LABELS
from evaluation.judging.protocols.pairwise import LETTERS as LETTERS
from evaluation.judging.protocols.pairwise import REASONS as REASONS
from evaluation.judging.protocols.pairwise import VERDICT as VERDICT
from evaluation.judging.protocols.pairwise import facts as facts
from evaluation.judging.protocols.pairwise import texts as texts

COMPARES = True
ORDERS = "both"
HIDES_THOUGHTS = True

TASK = (
    "You are comparing how well two assistants, A and B, answered the same request. Before you look at either of them, write down the "
    "answer that you would give yourself. Then hold A and B against it: find their mistakes, and say what would be right. Ask of each "
    "whether it helps with what was asked, whether all of it is to the point, and whether it is free of padding. Where the request leaves "
    "something open, an answer that asks about it is better than one that guesses. Where the task calls for it, count original ideas. "
    "Last, name what an answer should have said and does not. Neither the order of the answers nor their length is an argument.\n\n"
    + CHOICES
)


def parse(reply: str) -> str | None:
    """The verdict of the reply's last label, without brackets; None without one."""
    return last_label(reply)
