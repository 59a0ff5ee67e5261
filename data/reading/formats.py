"""JSON in files, as it is met: one object per line, one array, or objects that go over several lines or stand one behind another."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evaluation.records import Decoder

# What bytes that are not UTF-8 become under `surrogateescape`.
LOST_BYTES = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class Bad:
    """What stands where no record could be read: `reason` is a word for the ledger, `detail` a sentence for people."""

    reason: str
    detail: str


def parse_line(line: bytes, number: int) -> dict[str, Any] | Bad:
    """Line `number` of a JSON Lines file as its object, or what is wrong with it."""
    try:
        # Each of the files that were joined may have its mark.
        value, fault = Decoder().whole(line.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        return Bad("not_utf8", f"byte {error.start} is not UTF-8")
    except json.JSONDecodeError as error:
        return Bad("bad_schema", f"not JSON: {error.msg} at line {number}, column {error.colno}")
    except RecursionError as error:
        return Bad("bad_schema", f"not JSON: {error}")
    return _record(value, fault)


def check_utf8(file: Any, path: str) -> None:
    """Refuses text in another encoding, as far as its first bytes tell; the file is at its beginning before and after.

    Raises:
        ValueError: naming the encoding.
    """
    encoding = json.detect_encoding(file.read(4))
    file.seek(0)
    if not encoding.startswith("utf-8"):
        raise ValueError(f"data.path must be UTF-8, got {path}, which is {encoding.upper()}; convert it, as with iconv")


def json_records(file: Any, path: str, chunk_size: int) -> Iterator[tuple[int, bytes | dict[str, Any] | Bad]]:
    """A file's records, each with the line that it begins on: whole lines as they are, other objects decoded as they come.

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


def _goes_by_lines(file: Any) -> bool:
    """Whether records end where lines do, as far as the first of them tells; the file is at its beginning before and after."""
    lines = (line.decode("utf-8-sig", "surrogateescape").strip() for line in file)
    full = (line for line in lines if line)
    first, second = next(full, ""), next(full, "")
    file.seek(0)
    try:
        _, end, _ = Decoder()(first)
    except json.JSONDecodeError as error:
        # An object that is not over goes on, unless the next line is a whole one: then this line was cut.
        return error.pos < len(first) or isinstance(parse_line(second.encode(errors="surrogateescape"), 2), dict)
    except RecursionError:
        return True
    return first[end:].lstrip("\ufeff \t\r")[:1] != "{"


def _values(file: Any, path: str, chunk_size: int, *, is_array: bool) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    """The objects of a JSON array, or those that stand one behind another, decoded as they come; an object's line is the one that it
    begins on."""
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape")
    decode = Decoder()
    buffer, position, line, size = text.read(chunk_size), 0, 1, chunk_size
    whole, awaited, column = not buffer, "[" if is_array else "", 0  # column: characters of the first line that were dropped
    while True:
        # What stands before the next object: white space, and the bracket or comma that is awaited.
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
            # Cut in its middle, or wrong: with more of the file it shows.
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


def _end(text: io.TextIOWrapper, rest: str, path: str, line: int) -> None:
    """Refuses a file that goes on after its array: what stands there would be lost."""
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


def _record(value: Any, fault: str) -> dict[str, Any] | Bad:
    if not isinstance(value, dict):
        return Bad("bad_schema", f"must be a JSON object, got {type(value).__name__}")
    return Bad("bad_schema", fault) if fault else value
