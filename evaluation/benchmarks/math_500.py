r"""MATH-500: 500 problems of MATH's test split, chosen by the authors of "Let's verify step by step".

Dataset: HuggingFaceH4/MATH-500, test (500 items; locally its test.jsonl). Metric: `math`'s, with math-verify's symbolic comparison
beside it. Results by level and by subject. Pattern: zero-shot, one user turn, the last `\boxed{…}` is the answer, greedy, 32,768 tokens
(`_reasoning.py`). https://arxiv.org/abs/2305.20050
"""

from __future__ import annotations

from evaluation.benchmarks._boxed import boxed_verdict, same_form
from evaluation.benchmarks._items import open_fault
from evaluation.benchmarks._math import math_row
from evaluation.benchmarks._math_verify import math_verify_metrics
from evaluation.benchmarks._reasoning import REASONING_TOKENS, boxed_messages
from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.types import Hub, Item

TITLE = "MATH-500"
NUM_ITEMS = 500
MAX_NEW_TOKENS = REASONING_TOKENS
LM_EVAL_TASKS = ("minerva_math/minerva_math500", "hendrycks_math/hendrycks_math500")
LM_EVAL_MAIN = ("minerva_math500", "none", "math_verify")
GROUPS = ("level", "subject")

HUB = Hub("HuggingFaceH4/MATH-500", [None])


def load(source: str | None, limit: int | None) -> list[Item]:
    """The problems, with upstream's `answer` as the gold one and its `unique_id` as the id.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format.
    """
    prefix = id_prefix("math_500", source)

    def to_item(row: Row) -> Item:
        level, name, subject = row.id("level"), row.get("unique_id", kind=str), row.get("subject", kind=str)
        question, answer = row.get("problem", kind=str), row.get("answer", kind=str)
        if level not in ("1", "2", "3", "4", "5"):
            raise row.error("have a level from 1 to 5", level)
        return {
            "id": f"{prefix}-{name}",
            "question": question,
            "answer": answer,
            "level": f"Level {level}",
            "subject": subject,
        }

    return load_items("math_500", source, limit, HUB, NUM_ITEMS, to_item)


item_fault = open_fault
messages = boxed_messages
score = boxed_verdict
same_answer = same_form
second_metrics = math_verify_metrics
lm_eval_document = math_row
