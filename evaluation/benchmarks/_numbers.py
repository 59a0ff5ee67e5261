"""ZeroEval's comparison of answers that are numbers, for the mathematical benchmarks."""

from __future__ import annotations

from evaluation.answers import parsing
from evaluation.types import Verdict


def number_verdict(gold: str, completion: str, *, boxed: bool) -> Verdict:
    """Right where the first numbers of both answers are equal as floats; a null answer is the text `None`, not a missing one."""
    found = parsing.extract_answer(completion, boxed=boxed)
    if found.rule == "none":
        return Verdict("no_answer", None, "none")
    answer = str(found.value)
    number = parsing.math_number(answer)
    right = number is not None and number == parsing.math_number(gold)
    return Verdict("correct" if right else "wrong", answer, found.rule)
