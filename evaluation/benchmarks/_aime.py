"""Rows of a year's American Invitational Mathematics Examination: 30 problems whose answers are whole numbers from 0 to 999."""

from __future__ import annotations

from evaluation.benchmarks._items import open_fault
from evaluation.benchmarks._rows import Row, id_prefix, load_items
from evaluation.fields import shown
from evaluation.types import Hub, Item

NUM_PROBLEMS = 30


def aime_items(benchmark: str, source: str | None, limit: int | None, hub: Hub) -> list[Item]:
    """The problems of both papers. `answer` is without leading zeros: AIME's answer sheets have `073`, a reply may have 73.

    A row has `problem` (or `Problem`, `question`) and `answer` (or `Answer`) as a whole number or its digits.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where one of them is missing, the answer is no such number, or a problem comes twice.
    """
    prefix = id_prefix(benchmark, source)

    def to_item(row: Row) -> Item:
        question = row.get("problem", "Problem", "question", kind=str)
        # In opencompass/AIME2025 the answer to II-5 is in degrees: `336^\\circ`.
        answer = row.id("answer", "Answer").strip().removesuffix("^\\circ")
        if not _is_answer(answer):
            raise row.error("have a whole number from 0 to 999 as answer", answer)
        return {"id": f"{prefix}-{row.number}", "question": question, "answer": str(int(answer))}

    return load_items(benchmark, source, limit, hub, NUM_PROBLEMS, to_item, asks_once=True)


def aime_fault(item: Item) -> str | None:
    """Of an item with a problem and a whole number from 0 to 999 as its answer."""
    if wrong := open_fault(item):
        return wrong
    answer = item["answer"]
    return None if _is_answer(answer) else f"have a whole number from 0 to 999 as answer, got {shown(answer)}"


def _is_answer(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3
