"""The score of a benchmark whose answers are letters, by ZeroEval's rule, and its items as rows of MMLU."""

from __future__ import annotations

from evaluation.answers import parsing
from evaluation.benchmarks._zeroeval import LETTERS
from evaluation.types import Item, Verdict


def letter_verdict(item: Item, completion: str, finish_reason: str, *, boxed: bool = False) -> Verdict:
    r"""Correct where the answer is the gold letter, or contains it before a parenthesis. A null or empty answer is a missing one.

    `boxed` adds the `\boxed{…}` rule that upstream keeps for Llama 3.1.
    """
    found = parsing.extract_answer(completion, boxed=boxed, empty_is_none=True)
    if found.rule == "none":
        return Verdict("no_answer", None, "none")
    letter = item["answer"]
    # Upstream's `in` looks into a list's elements and a dict's keys as well as into a text.
    right = found.value == letter or (isinstance(found.value, str | list | dict) and f"{letter})" in found.value)
    return Verdict("correct" if right else "wrong", str(found.value), found.rule)


def same_letter(one: str, other: str) -> bool:
    """Whether two answers are one to `letter_verdict`: `C`, `C) London` and `It is C)` are right for the same letter."""
    named = _letters(one)
    return one == other or (bool(named) and named == _letters(other))


def _letters(answer: str) -> set[str]:
    """The letters for which `letter_verdict` takes a text."""
    return {letter for letter in LETTERS if answer == letter or f"{letter})" in answer}


def choice_row(item: Item) -> dict[str, object]:
    """An item as a row of MMLU: four choices or more, and the right one's number."""
    choices = [str(choice) for choice in item.get("choices", ())]
    return {
        "question": item.get("question", ""),
        "choices": [*choices, *[""] * (4 - len(choices))],
        "answer": LETTERS.index(item["answer"]),
    }
