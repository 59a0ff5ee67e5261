"""Reads completions and the items that they are of, and refuses those of another benchmark: their score would be 0, and mean nothing."""

from __future__ import annotations

from pathlib import Path

from bnf.plugins import load, names, own_names
from evaluation.benchmarks import BENCHMARKS
from evaluation.item_files import completion_lines, is_answer_alone, item_lines
from evaluation.records import Record
from evaluation.types import Item

_CORRECT = "correct or remove it"
_OTHER = "name the benchmark that it is of, or correct it"
_SHOWN = 100


def read_completions(path: Path) -> list[Record]:
    """The records of a completions.jsonl. Of several samples of an item each has its number, from 0, as `sample`.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where there is no line, or one has no id, or id and sample, and completion of its own, or a field that can't be; the
            message names the file and the line.
    """
    return [record for _, record in completion_lines(path, _CORRECT)]


def read_items(path: Path, benchmark: str) -> list[Item]:
    """The benchmark's items of an items.jsonl.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: as `read_completions`, and where a line is no item of the benchmark.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must hold the items that the completions are of, got no such file; put it there")
    of = load(BENCHMARKS, benchmark)
    made = {item["id"]: item for item in of.load(None, None)} if of.MAKES_ITS_ITEMS else None
    items: list[Item] = []
    for number, item in item_lines(path, _CORRECT):
        if (other := _named_in(item["id"])) not in (None, benchmark):
            raise ValueError(
                f"{path} must hold items of {benchmark}, whose ids begin with '{benchmark}-' where upstream has none of its own, got "
                f"{item['id']!r:.{_SHOWN}}, an id of {other}, on line {number}; name the benchmark {other}, or give another file"
            )
        if (wrong := of.item_fault(item)) is not None:
            raise ValueError(
                f"{path} must {wrong} with the fields {', '.join(item)!s:.{_SHOWN}} on line {number}, as an item of {benchmark}; {_OTHER}"
            )
        if made is not None and item != made.get(item["id"]):
            raise ValueError(
                f"{path} must hold the items that {benchmark} makes, got {item!r:.{_SHOWN}} on line {number}, which is none of them; "
                f"{_OTHER}"
            )
        items.append(item)
    return items


def read_answered(path: Path, benchmark: str) -> tuple[list[Record], list[Item]]:
    """The records of a completions.jsonl, and the items in the items.jsonl beside it that they answer. One without its prompt passes.

    Raises:
        FileNotFoundError, ValueError: as `read_completions` and `read_items`, and where a completion is of none of the items, or was made
            from another prompt than the benchmark's.
    """
    # The named file first: its faults are reported before those of the file beside it.
    lines, items = list(completion_lines(path, _CORRECT)), read_items(path.with_name("items.jsonl"), benchmark)
    of, known = load(BENCHMARKS, benchmark), {item["id"] for item in items}
    asked = {item["id"]: str(of.messages(item)[-1]["content"]) for item in items if not is_answer_alone(item)}
    for number, record in lines:
        id, prompt = record["id"], record.get("prompt")
        if id not in known:
            raise ValueError(
                f"{path} must hold completions of the {len(items)} items in items.jsonl beside it, got the id {id!r:.{_SHOWN}} on line "
                f"{number}; put the items there that they were generated from"
            )
        # A chat template may strip a turn, and never changes its words.
        if prompt is not None and id in asked and _words(asked[id]) not in _words(prompt):
            raise ValueError(
                f"{path} must have prompts that ask as {benchmark} does, {asked[id]!r:.{_SHOWN}}, got {prompt!r:.{_SHOWN}} on line "
                f"{number} as prompt of {id!r:.{_SHOWN}}; name the benchmark that it is of, or remove `prompt` where the wording is your "
                "own"
            )
    return [record for _, record in lines], items


def _words(text: str) -> str:
    return " ".join(text.split())


def _named_in(id: str) -> str | None:
    """The benchmark with a rule that the id of an item names, as ids do where upstream has none."""
    found = [name for name in names(BENCHMARKS) if id.startswith(f"{name}-") and own_names(load(BENCHMARKS, name), ["score"])]
    return max(found, key=len, default=None)
