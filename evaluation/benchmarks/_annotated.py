"""Rows of MMLU as edinburgh-dawg publishes them, with what its annotators say of each. https://arxiv.org/abs/2406.04127"""

from __future__ import annotations

from evaluation.benchmarks._rows import Row
from evaluation.benchmarks._zeroeval import LETTERS
from evaluation.types import Item

_CORRECTED = LETTERS[:6]


def annotated_item(row: Row, prefix: str) -> Item | str:
    """The row's item, or the reason why it has none: a faulty question, or a wrong gold answer without a correction.

    A row has `question`, `choices`, `error_type`, the right choice's number as `groundtruth_answer` or `answer`, and where the
    annotators give one a corrected letter as `correct_answer`.

    Raises:
        ValueError: where a column is missing, or the answer is no choice.
    """
    error_type = row.get("error_type", kind=str)
    if error_type == "ok":
        number: int = row.get("groundtruth_answer", "answer", kind=int)
        if not 0 <= number < len(LETTERS):
            raise row.error("have the number of a choice", number)
        letter = LETTERS[number]
    elif error_type == "wrong_groundtruth":
        letter = row.values.get("correct_answer") or ""
        if letter not in tuple(_CORRECTED):
            return "wrong_groundtruth without a corrected letter"
    else:
        return error_type
    return item_of(row, prefix, letter)


def item_of(row: Row, prefix: str, letter: str) -> Item:
    """The row's item with this letter as its gold answer; raises ValueError where there is no such choice."""
    choices = row.get("choices", kind=list)
    if LETTERS.index(letter) >= len(choices):
        raise row.error(f"have an answer among its {len(choices)} choices", letter)
    subject, number = row.values.get("subject"), row.values.get("row", row.number)
    name = row.values.get("id", f"{prefix}-{subject}-{number}" if subject else f"{prefix}-{number}")
    return {
        "id": str(name),
        "question": row.get("question", kind=str),
        "choices": choices,
        "answer": letter,
        "subject": subject or row.values.get("config"),
    }
