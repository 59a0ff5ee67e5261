"""MMLU-Pro: multiple choice of up to ten choices over 14 fields, with more reasoning than MMLU asks for.

Dataset: TIGER-Lab/MMLU-Pro, test (12,032 items; locally its Parquet file). Metric: the letter, by upstream's three expressions
(`evaluation/answers/letters.py`); where they find nothing upstream guesses, and here that is no answer. Results by category, as subjects.
Pattern: zero-shot reasoning that ends in "The answer is (X)", greedy, 32,768 tokens; the leaderboard's is the same with five examples and
2048 tokens. https://arxiv.org/abs/2406.01574, https://github.com/TIGER-AI-Lab/MMLU-Pro
"""

from __future__ import annotations

from evaluation.answers.letters import mmlu_pro_letter
from evaluation.benchmarks._items import choice_fault
from evaluation.benchmarks._lettered import lettered_verdict
from evaluation.benchmarks._reasoning import REASONING_TOKENS, lettered_messages
from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.benchmarks._zeroeval import LETTERS
from evaluation.fields import TEXTS, shown
from evaluation.types import Hub, Item, Message, Verdict

TITLE = "MMLU-Pro"
NUM_ITEMS = 12_032
MAX_NEW_TOKENS = REASONING_TOKENS
GROUPS = ("subject",)
# The filter and the metric are the same for each of its categories.
LM_EVAL_TASKS = ("mmlu_pro/mmlu_pro_biology",)
LM_EVAL_MAIN = ("mmlu_pro_biology", "custom-extract", "exact_match")

HUB = Hub("TIGER-Lab/MMLU-Pro", [None])
_MOST_CHOICES = 10
_CATEGORIES = (
    *("biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law", "math"),
    *("other", "philosophy", "physics", "psychology"),
)


def load(source: str | None, limit: int | None) -> list[Item]:
    """The items; `answer` is upstream's letter. Its `answer_index` is another choice in one row, and not read.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is not in upstream's format, or has another category.
    """
    prefix = id_prefix("mmlu_pro", source)

    def to_item(row: Row) -> Item:
        choices = row.get("options", kind=list)
        letter, category = row.get("answer", kind=str), row.get("category", kind=str)
        question, number = row.get("question", kind=str), row.id("question_id")
        if category not in _CATEGORIES:
            raise row.error(f"have one of MMLU-Pro's {len(_CATEGORIES)} categories", category)
        if not 0 < len(choices) <= _MOST_CHOICES:
            raise row.error(f"have 1 to {_MOST_CHOICES} options", len(choices))
        if not TEXTS.holds(choices):
            raise row.error(f"have options as {TEXTS.words}", shown(choices))
        if len(letter) != 1 or letter not in LETTERS[: len(choices)]:
            raise row.error(f"have the letter of one of its {len(choices)} options as answer", letter)
        return {
            "id": f"{prefix}-{number}",
            "question": question,
            "choices": choices,
            "answer": letter,
            "subject": category,
        }

    return load_items("mmlu_pro", source, limit, HUB, NUM_ITEMS, to_item)


def item_fault(item: Item) -> str | None:
    """As the contract has it: up to ten choices."""
    return choice_fault(item, most=_MOST_CHOICES)


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    return lettered_messages(item["question"], item["choices"])


def score(item: Item, completion: str, finish_reason: str) -> Verdict:
    """Compares the letter that upstream's expressions find in the reply."""
    return lettered_verdict(item, completion, mmlu_pro_letter)


def lm_eval_document(item: Item) -> dict[str, object]:
    """The item as a row of the one category that its task takes."""
    choices = [str(choice) for choice in item.get("choices", ())]
    return {"question": item.get("question", ""), "options": choices, "answer": item["answer"], "category": "biology"}
