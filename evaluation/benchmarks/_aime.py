"""Rows of a year's American Invitational Mathematics Examination: 30 problems whose answers are whole numbers from 0 to 999."""

from __future__ import annotations

from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.types import Hub, Item

NUM_PROBLEMS = 30


def aime_items(benchmark: str, source: str | None, limit: int | None, hub: Hub) -> list[Item]:
    """The problems of both papers. `answer` is without leading zeros: AIME's answer sheets have `073`, a reply may have 73.

    A row has `problem` (or `Problem`, `question`) and `answer` (or `Answer`) as a whole number or its digits.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where one of them is missing, or the answer is no such number.
    """
    prefix = id_prefix(benchmark, source)

    def to_item(row: Row) -> Item:
        answer = row.id("answer", "Answer").strip()
        if not (answer.isascii() and answer.isdigit() and len(answer) <= 3):
            raise row.error("have a whole number from 0 to 999 as answer", answer)
        question = row.get("problem", "Problem", "question", kind=str)
        return {"id": f"{prefix}-{row.number}", "question": question, "answer": str(int(answer))}

    return load_items(benchmark, source, limit, hub, NUM_PROBLEMS, to_item)
