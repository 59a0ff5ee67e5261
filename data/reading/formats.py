"""Reads the forms that JSON files have: an object per line, one array, or objects over several lines or one behind another."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from data.reading.files import ByteFile
from evaluation.records import Decoder, Record

# What bytes that are not UTF-8 become under `surrogateescape`.
LOST_BYTES = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class Bad:
    """A record that could not be read: its outcome in the ledger as `reason`, and a sentence for people as `detail`."""

    reason: str
    detail: str


def parse_line(line: bytes, number: int) -> Record | Bad:
    """The object on line `number` of a JSON Lines file, or what is wrong with the line."""
    try:
        # A file that was joined from several may have a byte order mark on any line.
        value, fault = Decoder().whole(line.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        return Bad("not_utf8", f"byte {error.start} is not UTF-8")
    except json.JSONDecodeError as error:
        return Bad("bad_schema", f"not JSON: {error.msg} at line {number}, column {error.colno}")
    except RecursionError as error:
        return Bad("bad_schema", f"not JSON: {error}")
    return _record(value, fault)


def check_utf8(file: ByteFile, path: str) -> None:
    """Refuses text whose first bytes show another encoding; the file is at its beginning before and after.

    Raises:
        ValueError: naming the encoding.
    """
    encoding = json.detect_encoding(file.read(4))
    file.seek(0)
    if not encoding.startswith("utf-8"):
        raise ValueError(f"data.path must be UTF-8, got {path}, which is {encoding.upper()}; convert it, as with iconv")


def json_records(file: ByteFile, path: str, chunk_size: int) -> Iterator[tuple[int, bytes | Record | Bad]]:
    """A file's records, each with the line that it begins on: JSON Lines as bytes, objects of any other form decoded.

    Args:
        chunk_size: characters read at once where objects don't end with lines.

    Raises:
        ValueError: where an array or an object over several lines is ill-formed, with the place.
    """
    start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    file.seek(0)
    if start[:1] == b"[":
        yield from _values(file, path, chunk_size, is_array=True)
    elif _goes_by_lines(file):
        yield from ((number, line) for number, line in enumerate(file, start=1) if line.removeprefix(codecs.BOM_UTF8).strip())
    else:
        yield from _values(file, path, chunk_size, is_array=False)


def _goes_by_lines(file: ByteFile) -> bool:
    """Whether records end where lines do, judged by the first of them; the file is at its beginning before and after."""
    lines = (line.decode("utf-8-sig", "surrogateescape").strip() for line in file)
    full = (line for line in lines if line)
    first, second = next(full, ""), next(full, "")
    file.seek(0)
    try:
        _, end, _ = Decoder()(first)
    except json.JSONDecodeError as error:
        # An object that isn't closed goes on in the next line, unless that holds a whole object: then this line was cut.
        return error.pos < len(first) or isinstance(parse_line(second.encode(errors="surrogateescape"), 2), dict)
    except RecursionError:
        return True
    return first[end:].lstrip("\ufeff \t\r")[:1] != "{"


def _values(file: ByteFile, path: str, chunk_size: int, *, is_array: bool) -> Iterator[tuple[int, Record | Bad]]:
    """The objects of a JSON array, or objects one behind another, each with the line that it begins on."""
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape")
    decode = Decoder()
    buffer, position, line, size = text.read(chunk_size), 0, 1, chunk_size
    whole, awaited, column = not buffer, "[" if is_array else "", 0  # column: characters of the first line that were dropped
    while True:
        # Skips white space before the next object, and the bracket or comma that is awaited.
        start = position
        while position < len(buffer) and (
            buffer[position].isspace() or buffer[position] == awaited or (buffer[position] == "\ufeff" and not is_array)
        ):
            awaited = "" if buffer[position] == awaited else awaited
            position += 1
        line += buffer.count("\n", start, position)
        if is_array and buffer[position : position + 1] == "]":
            _end(text, buffer[position + 1 :], path, line)
            return
        if not is_array and whole and position == len(buffer):
            return
        try:
            if awaited:
                raise json.JSONDecodeError(f"Expecting '{awaited}'", buffer, position)
            value, end, fault = decode(buffer, position)
        except (json.JSONDecodeError, RecursionError) as error:
            if whole:
                raise _ill_formed(path, buffer, position, line, column, error, is_array=is_array) from error
            # The buffer may end in the middle of the object; more of the file tells.
            more = text.read(size)
            whole, size = not more, 2 * size
            last = buffer.rfind("\n", 0, position)
            column = position - last - 1 if last >= 0 else column + position
            buffer, position = buffer[position:] + more, 0
            continue
        source = buffer[position:end]
        if LOST_BYTES.search(source):
            yield line, Bad("not_utf8", "holds bytes that are not UTF-8")
        else:
            yield line, _record(value, fault)
        line += source.count("\n")
        position, awaited, size = end, "," if is_array else "", chunk_size


def _end(text: TextIO, rest: str, path: str, line: int) -> None:
    """Refuses a file that goes on after its array: the rest would be lost."""
    while rest:
        beyond = rest.lstrip()
        line += rest.count("\n", 0, len(rest) - len(beyond))
        if beyond:
            raise ValueError(
                f"data.path must be one JSON array, got {path}, which goes on after it on line {line} with {beyond[:20]!r}; join the "
                "arrays, or write one object per line as .jsonl"
            )
        rest = text.read(1 << 20)


def _ill_formed(
    path: str, buffer: str, position: int, line: int, column: int, error: Exception, *, is_array: bool
) -> ValueError:
    message = str(error)
    if isinstance(error, json.JSONDecodeError):
        last = buffer.rfind("\n", 0, error.pos)
        column = error.pos - last if last >= 0 else column + error.pos + 1
        message = f"{error.msg} at line {line + buffer.count(chr(10), position, error.pos)}, column {column}"
    form = "a JSON array" if is_array else "JSON objects, one behind another"
    return ValueError(f"data.path must be {form}, got {path}: {message}; correct it, or write one object per line as .jsonl")


def _record(value: object, fault: str) -> Record | Bad:
    if not isinstance(value, dict):
        return Bad("bad_schema", f"must be a JSON object, got {type(value).__name__}")
    return Bad("bad_schema", fault) if fault else value
