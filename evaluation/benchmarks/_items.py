"""What the fields of a benchmark's items must be, whether a source gave them or a file of items.

Of an item that says nothing but its answer, as in files of recorded answers, that must be right alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.benchmarks._zeroeval import LETTERS
from evaluation.fields import FULL_TEXT, TEXT, TEXT_OR_NONE, TEXTS, Field, fault, one_of, shown
from evaluation.item_files import is_answer_alone
from evaluation.types import Item

_ANSWER: Mapping[str, Field] = {"answer": TEXT}
_OPEN: Mapping[str, Field] = {"question": FULL_TEXT, "answer": TEXT}
_CHOICE: Mapping[str, Field] = {"question": FULL_TEXT, "choices": TEXTS, "answer": TEXT}
_LABELS: Mapping[str, Field] = {"level": TEXT_OR_NONE, "subject": TEXT_OR_NONE}
_CODE: Mapping[str, Field] = {"code": FULL_TEXT, "input": TEXT, "answer": TEXT}


def open_fault(item: Item) -> str | None:
    """Of an item with a question and an answer of any form."""
    return fault(item, _ANSWER if is_answer_alone(item) else _OPEN, _LABELS)


def choice_fault(item: Item, least: int = 1, most: int = len(LETTERS)) -> str | None:
    """Of an item with so many choices, whose answer is the letter of one of them."""
    if is_answer_alone(item):
        return fault(item, {"answer": one_of(*LETTERS[:most])}, _LABELS)
    if wrong := fault(item, _CHOICE, _LABELS):
        return wrong
    number, answer = len(item["choices"]), item["answer"]
    if not least <= number <= most:
        return f"have {least if least == most else f'{least} to {most}'} choices, got {number}"
    if answer not in tuple(LETTERS[:number]):
        return f"have the letter of one of its {number} choices as answer, got {shown(answer)}"
    return None


def code_fault(item: Item) -> str | None:
    """Of an item that asks what a function returns."""
    return fault(item, _ANSWER if is_answer_alone(item) else _CODE)
