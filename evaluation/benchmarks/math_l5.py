r"""MATH-L5: the hardest problems of MATH whose answer is a whole number.

Dataset: MATH's test split (EleutherAI/hendrycks_math, seven subjects), Level 5, where Python's `int()` accepts the last boxed
answer (721 items). Metric: the first number of the answer equals the gold one. Pattern: ZeroEval, zero-shot, JSON with reasoning
and answer, greedy, 4096 tokens. https://arxiv.org/abs/2103.03874
"""

from __future__ import annotations

from evaluation.benchmarks._items import open_fault
from evaluation.benchmarks._math import math_row, read_problem
from evaluation.benchmarks._math_verify import math_verify_metrics
from evaluation.benchmarks._numbers import number_verdict, same_number
from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.benchmarks._zeroeval import question_messages
from evaluation.hub_sets import MATH
from evaluation.types import Item, Message

TITLE = "MATH-L5"
NUM_ITEMS = 721
MAX_NEW_TOKENS = 4096
LM_EVAL_TASKS = ("minerva_math/minerva_math500", "hendrycks_math/hendrycks_math500")
LM_EVAL_MAIN = ("minerva_math500", "none", "math_verify")
GROUPS = ("subject",)

HUB = MATH


def load(source: str | None, limit: int | None) -> list[Item]:
    """The Level 5 items with a whole number as answer; the source's other rows are counted as left out.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format.
    """
    prefix = id_prefix("math_l5", source)

    def to_item(row: Row) -> Item | str:
        problem = read_problem(row)
        if problem.pop("level") != "Level 5":
            return "another level"
        if problem["answer"] is None or not is_whole_number(problem["answer"]):
            return "the answer is no whole number"
        return {"id": f"{prefix}-{row.number}", **problem}

    return load_items("math_l5", source, limit, HUB, NUM_ITEMS, to_item, asks_once=True)


item_fault = open_fault


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    return question_messages(item["question"], answer="the final number alone")


score = number_verdict
same_answer = same_number
second_metrics = math_verify_metrics
lm_eval_document = math_row


def is_whole_number(answer: str) -> bool:
    """Whether Python's int() reads the text: the rule that gives the 721 items. It reads `11_2` too, which MATH means in base two."""
    try:
        int(answer)
    except ValueError:
        return False
    return True
