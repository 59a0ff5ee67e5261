"""MMLU-redux: multiple choice over 57 subjects, without the questions that annotators found to be faulty.

Dataset: yuchenlin/zero-eval, configuration mmlu-redux (2778 items, already filtered), or rows as edinburgh-dawg publishes them with
an error type. Metric: the letter. Pattern: ZeroEval, zero-shot, JSON with reasoning and answer, greedy, 4096 tokens.
https://arxiv.org/abs/2406.04127
"""

from __future__ import annotations

import logging

from evaluation import parsing
from evaluation._types import Item, Message, Verdict
from evaluation.benchmarks._rows import Hub, Row, id_prefix, load_items
from evaluation.benchmarks._zeroeval import LETTERS, choice_messages

TITLE = "MMLU-redux"
NUM_ITEMS = 2778
MAX_NEW_TOKENS = 4096

_HUB = Hub("yuchenlin/zero-eval", ["mmlu-redux"])
_CORRECTED = tuple(LETTERS[:6])


def load(source: str | None, limit: int | None) -> list[Item]:
    """The items without faults, and those with a wrong gold answer whose corrected letter is known; `answer` is the letter.

    A row is either ZeroEval's (`choices` and the right one's text as `correct_answer`) or the annotators' (`error_type`, the right
    choice's number as `groundtruth_answer` or `answer`, and the corrected letter as `correct_answer`). How many rows with a wrong
    gold answer were dropped for want of a corrected letter goes to the log.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where it is in neither format.
    """
    prefix = id_prefix("mmlu_redux", source)
    num_uncorrected = 0

    def to_item(row: Row) -> Item | None:
        nonlocal num_uncorrected
        choices = row.get("choices", kind=list)
        if "error_type" in row.values:
            answer = _annotated_answer(row)
            num_uncorrected += answer is None and row.values["error_type"] == "wrong_groundtruth"
        elif row.get("correct_answer", kind=str) in choices:
            answer = LETTERS[choices.index(row.values["correct_answer"])]
        else:
            raise row.error("have the right answer among its choices", row.values["correct_answer"])
        if answer is None:
            return None
        if LETTERS.index(answer) >= len(choices):
            raise row.error(f"have an answer among its {len(choices)} choices", answer)
        subject, number = row.values.get("subject"), row.values.get("row", row.number)
        name = row.values.get("id", f"{prefix}-{subject}-{number}" if subject else f"{prefix}-{number}")
        return {"id": str(name), "question": row.get("question", kind=str), "choices": choices, "answer": answer}

    items = load_items("mmlu_redux", source, limit, _HUB, NUM_ITEMS, to_item)
    if num_uncorrected:
        logging.getLogger(__name__).warning(
            "mmlu_redux: dropped %d rows with a wrong gold answer and no corrected letter", num_uncorrected
        )
    return items


def messages(item: Item) -> list[Message]:
    """One user turn: the chat template's own system text stays."""
    return choice_messages(item["question"], item["choices"])


def score(item: Item, completion: str, finish_reason: str, *, boxed: bool = False) -> Verdict:
    r"""Right is the gold letter, or an answer that contains it before a parenthesis; a null or empty answer is none.

    `boxed` adds the `\boxed{…}` rule that upstream keeps for Llama 3.1.
    """
    found = parsing.extract_answer(completion, boxed=boxed, empty_is_none=True)
    if found.rule == "none":
        return Verdict("no_answer", None, "none")
    letter = item["answer"]
    right = isinstance(found.value, str) and (found.value == letter or f"{letter})" in found.value)
    return Verdict("correct" if right else "wrong", str(found.value), found.rule)


def _annotated_answer(row: Row) -> str | None:
    """The letter by the annotators' columns; None for a faulty question, and for a wrong gold answer that nobody corrected."""
    error_type = row.get("error_type", kind=str)
    if error_type == "ok":
        number: int = row.get("groundtruth_answer", "answer", kind=int)
        if not 0 <= number < len(LETTERS):
            raise row.error("have the number of a choice", number)
        return LETTERS[number]
    corrected = row.values.get("correct_answer")
    return corrected if error_type == "wrong_groundtruth" and corrected in _CORRECTED else None
