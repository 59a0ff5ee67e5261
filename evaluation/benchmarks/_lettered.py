"""The score of multiple choice whose reply ends in "The answer is (X)": MMLU-Pro and GPQA."""

from __future__ import annotations

from collections.abc import Callable

from evaluation.answers.parsing import Extraction
from evaluation.types import Item, Verdict


def lettered_verdict(item: Item, completion: str, find: Callable[[str], Extraction]) -> Verdict:
    """Compares the letter that `find` reads in the reply."""
    found = find(completion)
    if found.rule == "none":
        return Verdict("no_answer", None, "none")
    return Verdict("correct" if found.value == item["answer"] else "wrong", str(found.value), found.rule)
