"""Reads completions and the items that they are of."""

from __future__ import annotations

from pathlib import Path
from types import UnionType

from evaluation.records import Record, read_numbered
from evaluation.types import Item


def read_completions(path: Path) -> list[Record]:
    """The records of a completions.jsonl.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where a line has no id and completion of its own; the message names the file and the line.
    """
    return _read_lines(path, {"id": str, "completion": str, "finish_reason": str | None, "num_completion_tokens": int | None})


def read_items(path: Path) -> list[Item]:
    """The items of an items.jsonl. Raises as `read_completions`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must hold the items that the completions are of, got no such file; put it there")
    return _read_lines(path, {"id": str})


def _read_lines(path: Path, fields: dict[str, type | UnionType]) -> list[Record]:
    """The file's records, each with an id of its own; `fields` gives the types that `isinstance` checks."""
    records: list[Record] = []
    lines: dict[str, int] = {}
    for number, record in read_numbered(path, "correct or remove it"):
        where = f"on line {number}; correct or remove it"
        for name, kind in fields.items():
            if not isinstance(record.get(name), kind):
                expected = getattr(kind, "__name__", str(kind))
                raise ValueError(f"{path} must have {name} as {expected}, got {record.get(name)!r:.60} {where}")
        if record["id"] in lines:
            raise ValueError(f"{path} must have each id once, got {record['id']!r} of line {lines[record['id']]} again {where}")
        lines[record["id"]] = number
        records.append(record)
    return records
