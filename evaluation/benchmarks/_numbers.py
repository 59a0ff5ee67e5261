"""The score of a benchmark whose answers are numbers, by ZeroEval's rule."""

from __future__ import annotations

from evaluation.answers import parsing
from evaluation.types import Item, Verdict


def number_verdict(item: Item, completion: str, finish_reason: str, *, boxed: bool = False) -> Verdict:
    r"""Correct where the first numbers of answer and gold answer are equal as floats. A null answer is the text `None`, and not missing.

    `boxed` adds the `\boxed{…}` rule that upstream keeps for Llama 3.1.
    """
    found = parsing.extract_answer(completion, boxed=boxed)
    if found.rule == "none":
        return Verdict("no_answer", None, "none")
    answer = str(found.value)
    number = parsing.math_number(answer)
    right = number is not None and number == parsing.math_number(item["answer"])
    return Verdict("correct" if right else "wrong", answer, found.rule)


def same_number(one: str, other: str) -> bool:
    """Whether two answers' first numbers are equal as floats; of answers without one, whether they are the same text."""
    numbers = parsing.math_number(one), parsing.math_number(other)
    return one == other if numbers[0] is None else numbers[0] == numbers[1]
