r"""AIME 2025: the 30 problems of that year's two American Invitational Mathematics Examinations.

Dataset: math-ai/aime25, test (30 items; opencompass/AIME2025's rows are read from a file). Metric:
`math`'s, with math-verify's symbolic comparison beside it. Pattern: zero-shot, one user turn, the last `\boxed{…}` is the answer, greedy,
32,768 tokens (`_reasoning.py`). Published figures are mostly means over 16 to 64 samples at temperature 0.6 to 1: `num_samples` and
`temperature` in a recipe.
https://artofproblemsolving.com/wiki/index.php/AIME_Problems_and_Solutions
"""

from __future__ import annotations

from evaluation.benchmarks._aime import NUM_PROBLEMS, aime_fault, aime_items
from evaluation.benchmarks._boxed import boxed_verdict, same_form
from evaluation.benchmarks._math_verify import math_verify_metrics
from evaluation.benchmarks._reasoning import REASONING_TOKENS, boxed_messages
from evaluation.types import Hub, Item

TITLE = "AIME 2025"
NUM_ITEMS = NUM_PROBLEMS
ANSWERS_DIGEST = "a0239316151158f3"
MAX_NEW_TOKENS = REASONING_TOKENS
LM_EVAL_TASKS = ("aime/aime25",)
LM_EVAL_MAIN = ("aime25", "none", "exact_match")

HUB = Hub("math-ai/aime25", [None])


def load(source: str | None, limit: int | None) -> list[Item]:
    """The problems of both papers; an `answer` has no leading zeros.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format.
    """
    return aime_items("aime_2025", source, limit, HUB)


item_fault = aime_fault
messages = boxed_messages
score = boxed_verdict
same_answer = same_form
second_metrics = math_verify_metrics


def lm_eval_document(item: Item) -> dict[str, object]:
    """The item as a row of the data set of lm-eval's task."""
    return {"problem": item.get("question", ""), "answer": item["answer"]}
