"""Reads completions and the items that they are of."""

from __future__ import annotations

from pathlib import Path
from types import UnionType

from evaluation.records import Record, read_numbered
from evaluation.samples import SAMPLE
from evaluation.types import Item

# More of an item than anybody generates: a higher number is a slip.
MOST_SAMPLES = 100_000


def read_completions(path: Path) -> list[Record]:
    """The records of a completions.jsonl. Of several samples of an item each has its number, from 0, as `sample`.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where a line has no id, or id and sample, and completion of its own; the message names the file and the line.
    """
    fields = {"id": str, "completion": str, "finish_reason": str | None, "num_completion_tokens": int | None}
    return _read_lines(path, {**fields, SAMPLE: int | None})


def read_items(path: Path) -> list[Item]:
    """The items of an items.jsonl. Raises as `read_completions`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must hold the items that the completions are of, got no such file; put it there")
    return _read_lines(path, {"id": str})


def _read_lines(path: Path, fields: dict[str, type | UnionType]) -> list[Record]:
    """The file's records, each with an id of its own; `fields` gives the types that `isinstance` checks."""
    records: list[Record] = []
    lines: dict[tuple[str, int | None], int] = {}
    for number, record in read_numbered(path, "correct or remove it"):
        where = f"on line {number}; correct or remove it"
        for name, kind in fields.items():
            if not isinstance(record.get(name), kind):
                expected = getattr(kind, "__name__", str(kind))
                raise ValueError(f"{path} must have {name} as {expected}, got {record.get(name)!r:.60} {where}")
        sample = record.get(SAMPLE) if SAMPLE in fields else None
        if sample is not None and (isinstance(sample, bool) or sample < 0):
            raise ValueError(f"{path} must have {SAMPLE} as a number from 0, got {sample} {where}")
        if sample is not None and sample >= MOST_SAMPLES:
            # The highest number says how many samples there should be.
            raise ValueError(f"{path} must have {SAMPLE} as a number below {MOST_SAMPLES}, got {sample} {where}")
        if records and (sample is None) != (records[0].get(SAMPLE) is None):
            raise ValueError(f"{path} must have {SAMPLE} in all of its lines or in none, got {sample} {where}")
        if (key := (record["id"], sample)) in lines:
            of = "each id once" if sample is None else f"each {SAMPLE} of an id once"
            got = repr(record["id"]) if sample is None else f"{sample} of {record['id']!r}"
            raise ValueError(f"{path} must have {of}, got {got} of line {lines[key]} again {where}")
        lines[key] = number
        records.append(record)
    return records
