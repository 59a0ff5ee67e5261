"""JSON from outside, as writers leave it: a list, JSON Lines or objects over several lines; plain or gzipped; with a byte-order mark
or without; with either line ending."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from typing import Any

_GZIP_MAGIC = b"\x1f\x8b"
_BLANKS = re.compile(r"\s*")
# What a file that can't be read at all raises here.
UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True)
class BadLine:
    """A line that is no JSON, by its beginning."""

    text: str


def read_rows(data: bytes) -> list[Any]:
    """The records of a file's content; in JSON Lines a line that is no JSON is a `BadLine` among them.

    Raises:
        json.JSONDecodeError: where a list is no JSON.
        OSError, EOFError, zlib.error, UnicodeDecodeError, RecursionError: where it is neither plain nor gzipped JSON in UTF-8.
    """
    text = (gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data).decode("utf-8-sig")
    if text.lstrip()[:1] == "[":
        return list(json.loads(text))
    # Files that were joined have a mark inside.
    rows = [_parse(line) for line in (line.removeprefix("\ufeff") for line in text.split("\n")) if line.strip()]
    if rows and isinstance(rows[0], BadLine) and (objects := _objects(text)):
        return objects
    return rows


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return BadLine(line[:60])


def _objects(text: str) -> list[Any]:
    """Objects that are written over several lines each, as pretty-printers do; none where that is not what the text holds."""
    decoder, found, place = json.JSONDecoder(), [], 0
    try:
        while (place := _end_of_blanks(text, place)) < len(text):
            value, place = decoder.raw_decode(text, place)
            found.append(value)
    except (json.JSONDecodeError, RecursionError):
        return []
    return found


def _end_of_blanks(text: str, place: int) -> int:
    match = _BLANKS.match(text, place)
    assert match is not None
    return match.end()
