"""JSON Lines files that are appended to while a stage runs, and read again after it was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read_repaired(path: Path) -> list[Record]:
    """The file's records; a last line that a kill left unfinished is cut off, in the file too. No file is no records.

    Raises:
        ValueError: where any other line is not a JSON object.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path} must hold a JSON object per line, got {line[:60]!r} on line {number}; remove it"
            ) from error
        records.append(record)
    return records


def to_line(record: Record) -> str:
    """The record on one line that UTF-8 can hold: escaped where a server's reply holds half a surrogate pair."""
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(record)
    return line + "\n"


def write_whole(path: Path, records: Iterable[Record]) -> None:
    """Writes the file under another name and then renames it: it exists only if it is complete."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(map(to_line, records))
    os.replace(partial, path)
