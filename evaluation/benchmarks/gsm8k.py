"""GSM8K: grade-school word problems with a number as the answer.

Dataset: openai/gsm8k, configuration main, test (1319 items; locally its test.jsonl). Metric: the first number of the answer equals
the gold one. Pattern: ZeroEval, zero-shot, JSON with reasoning and answer, greedy, 4096 tokens. https://arxiv.org/abs/2110.14168
"""

from __future__ import annotations

from evaluation.benchmarks._items import open_fault
from evaluation.benchmarks._numbers import number_verdict, same_number
from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.benchmarks._zeroeval import question_messages
from evaluation.types import Hub, Item, Message

TITLE = "GSM8K"
NUM_ITEMS = 1319
ANSWERS_DIGEST = "c09cc2ca225e8a62"
MAX_NEW_TOKENS = 4096
LM_EVAL_TASKS = ("gsm8k/gsm8k", "gsm8k/gsm8k_cot_zeroshot", "gsm8k/gsm8k_cot_llama")
LM_EVAL_MAIN = ("gsm8k", "flexible-extract", "exact_match")

HUB = Hub("openai/gsm8k", ["main"])
_MARK = "####"


def load(source: str | None, limit: int | None) -> list[Item]:
    """The test items; an item's `answer` is what follows `####` in upstream's solution.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format.
    """
    prefix = id_prefix("gsm8k", source)

    def to_item(row: Row) -> Item:
        question, solution = row.get("question", kind=str), row.get("answer", kind=str)
        if _MARK not in solution:
            raise row.error(f"end each answer with {_MARK} and a number", solution)
        answer = solution.rpartition(_MARK)[2].strip()
        return {"id": f"{prefix}-{row.number}", "question": question, "answer": answer}

    return load_items("gsm8k", source, limit, HUB, NUM_ITEMS, to_item, asks_once=True)


item_fault = open_fault


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    return question_messages(item["question"], answer="the final number alone")


score = number_verdict
same_answer = same_number


def lm_eval_document(item: Item) -> dict[str, object]:
    """The item as a row of openai/gsm8k."""
    return {"question": item.get("question", ""), "answer": f"{_MARK} {item['answer']}"}
