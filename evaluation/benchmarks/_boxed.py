r"""The score of mathematics whose final answer stands in `\boxed{…}`: MATH-500 and AIME."""

from __future__ import annotations

from evaluation.answers import latex
from evaluation.answers.boxed import last_boxed
from evaluation.types import Item, Verdict


def boxed_verdict(item: Item, completion: str, finish_reason: str) -> Verdict:
    """Compares the form of the reply's last boxed answer, as `math` does."""
    answer = (last_boxed(completion) or "").strip()
    if not answer:
        return Verdict("no_answer", None, "none")
    return Verdict("correct" if latex.equivalent(answer, item["answer"]) else "wrong", answer, "boxed")


def same_form(one: str, other: str) -> bool:
    """Whether two answers have the same form, as an answer and the gold answer are compared."""
    return latex.equivalent(one, other)
