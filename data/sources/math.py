r"""MATH's training split, to sample from: rows with `problem`, `level`, `type` (or `subject`), and a `solution` that boxes its answer or
an `answer` alone.

https://arxiv.org/abs/2103.03874
"""

from __future__ import annotations

from data.reading.records import DataSource
from data.rows import Fields
from evaluation.answers.boxed import last_boxed
from evaluation.hub_sets import MATH
from evaluation.types import Item

GIVES = "problems"
HUB = tuple(DataSource("math", MATH.id, config=subject, split="train") for subject in MATH.configs)
COLUMNS = {
    "problem": ("problem", "question"),
    "level": ("level",),
    "subject": ("type", "subject"),
    "solution": ("solution", "answer"),
}


def item(fields: Fields) -> Item:
    """A problem as the benchmark of this name scores it."""
    solution = fields.text("solution")
    answer = last_boxed(solution) if "\\boxed" in solution or "\\fbox" in solution else solution
    if answer is None:
        raise fields.error("solution", f"must close the box of its answer, got {solution[-40:]!r}")
    subject = fields.text("subject") if fields.has("subject") else None
    return {"question": fields.text("problem"), "answer": answer, "level": fields.text("level"), "subject": subject}
