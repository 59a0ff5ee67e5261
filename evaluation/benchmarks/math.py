r"""MATH: competition mathematics at five levels, with answers of any form.

Dataset: MATH's test split (EleutherAI/hendrycks_math, seven subjects, 5000 items). Metric: the answer has the form of the last boxed
one, or is the same rational number; math-verify's symbolic comparison stands beside it. Results by level and by subject. Pattern:
ZeroEval's prompt, zero-shot, JSON with reasoning and answer, greedy, 4096 tokens. https://arxiv.org/abs/2103.03874
"""

from __future__ import annotations

from evaluation.answers import latex, parsing
from evaluation.benchmarks._boxed import same_form
from evaluation.benchmarks._items import open_fault
from evaluation.benchmarks._math import math_row, read_problem
from evaluation.benchmarks._math_verify import math_verify_metrics
from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.benchmarks._zeroeval import question_messages
from evaluation.hub_sets import MATH
from evaluation.types import Item, Message, Verdict

TITLE = "MATH"
NUM_ITEMS = 5000
MAX_NEW_TOKENS = 4096
LM_EVAL_TASKS = ("minerva_math/minerva_math500", "hendrycks_math/hendrycks_math500")
LM_EVAL_MAIN = ("minerva_math500", "none", "math_verify")
GROUPS = ("level", "subject")

HUB = MATH


def load(source: str | None, limit: int | None) -> list[Item]:
    """The problems of all levels; `answer` is what the last box of the solution holds.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format.
    """
    prefix = id_prefix("math", source)

    def to_item(row: Row) -> Item | str:
        problem = read_problem(row)
        return "the boxed answer never ends" if problem["answer"] is None else {"id": f"{prefix}-{row.number}", **problem}

    return load_items("math", source, limit, HUB, NUM_ITEMS, to_item)


item_fault = open_fault


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    return question_messages(item["question"], answer="the final answer alone, in LaTeX where it is no plain number,")


def score(item: Item, completion: str, finish_reason: str, *, boxed: bool = False) -> Verdict:
    r"""Compares the answers' forms. `boxed` adds the `\boxed{…}` rule that upstream keeps for Llama 3.1."""
    found = parsing.extract_answer(completion, boxed=boxed)
    if found.rule == "none":
        return Verdict("no_answer", None, "none")
    answer = str(found.value)
    return Verdict("correct" if latex.equivalent(answer, item["answer"]) else "wrong", answer, found.rule)


same_answer = same_form
second_metrics = math_verify_metrics
lm_eval_document = math_row
