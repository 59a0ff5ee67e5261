"""Rows of MATH's test split. https://arxiv.org/abs/2103.03874"""

from __future__ import annotations

from evaluation.answers.boxed import last_boxed
from evaluation.benchmarks._rows import Row
from evaluation.types import Item


def read_problem(row: Row) -> Item:
    r"""A row's `question`, `answer`, `level` and `subject`; `answer` is None where a box never ends.

    A row has `problem` (or `question`), `level`, `type` (or `subject`), and a `solution` (or `answer`) that boxes its answer or is
    nothing but the answer.

    Raises:
        ValueError: where one of them is missing.
    """
    problem = row.get("problem", "question", kind=str)
    level = row.get("level", kind=str)
    solution = row.get("solution", "answer", kind=str)
    boxed = "\\boxed" in solution or "\\fbox" in solution
    subject = row.values.get("type", row.values.get("subject"))
    return {
        "question": problem,
        "answer": last_boxed(solution) if boxed else solution,
        "level": level,
        "subject": subject if isinstance(subject, str) else None,
    }


def math_row(item: Item) -> dict[str, object]:
    """An item as a row of the data set again, with a solution that is nothing but its boxed answer."""
    return {
        "problem": item.get("question", ""),
        "level": item.get("level", "Level 5"),
        "type": item.get("subject") or "",
        "solution": f"\\boxed{{{item['answer']}}}",
    }
