"""Every JSON file that is read or written: the project's own, and those that others wrote.

The project's own files hold one JSON object, or one on each line (JSON Lines). They are replaced as a whole, or appended to while a stage
runs and repaired after it was killed. Files of others may be a list, JSON Lines or objects over several lines; plain or gzipped; with a
byte order mark or without; with either line ending.

In all of them text is UTF-8, and a key that an object has twice is a fault: one of its values would be lost. A blank line is a fault in the
project's own files, which are written without any, and nothing in those of others.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnf.files import replacing as replacing
from bnf.files import write_json as write_json

Record = dict[str, Any]

_RUN_AGAIN = "run the stage that writes it again"
# Of a file that is appended to the other lines may have been paid for.
_REMOVE_LINE = "remove it, that line alone, and run the same command again: what the line held is made anew"
_PER_LINE = "hold a JSON object per line"
GZIP_MAGIC = b"\x1f\x8b"
# What `foreign_byte` calls a file that must be unpacked.
GZIPPED = "a gzipped file"
_BLANKS = re.compile(r"\s*")
# Python reads no longer integer: the time that it takes grows with the square of the length.
_MAX_DIGITS = 4300
# What a file that can't be read at all raises in `unpacked` and `read_rows`.
UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError, RecursionError)


def read_json(path: Path, remedy: str = _RUN_AGAIN) -> Record:
    """The object of a JSON file.

    Args:
        remedy: What the error message tells the user to do.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it does not hold one JSON object.
    """
    data = path.read_bytes()
    value, fault = _decoded(data, Decoder(), "be a JSON object")
    if fault:
        raise ValueError(f"{path} {fault}; {remedy}")
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be a JSON object, got {data[:60]!r}; {remedy}")
    return value


def read_records(path: Path) -> Iterator[Record]:
    """The objects of a stage's JSON Lines file, one at a time.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where a line is not a JSON object.
    """
    return (record for _, record in read_numbered_records(path))


def read_numbered_records(path: Path, remedy: str = _RUN_AGAIN) -> Iterator[tuple[int, Record]]:
    """As `read_records`, each with the number of its line from 1."""
    for number, line, value, fault in _lines(path):
        if fault:
            raise ValueError(f"{path} {fault} on line {number}; {remedy}")
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {number}, must be a JSON object, got {line[:60]!r}; {remedy}")
        yield number, value


def read_numbered(path: Path, remedy: str) -> Iterator[tuple[int, Record]]:
    """The objects of a JSON Lines file that anybody may have written, each with the number of its line from 1.

    Args:
        remedy: What the error message tells the user to do.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where a line is not a JSON object.
    """
    for number, line, value, fault in _lines(path):
        if fault:
            raise ValueError(f"{path} {fault} on line {number}; {remedy}")
        if not isinstance(value, dict):
            got = repr(line[:60]) if value is None else type(value).__name__
            raise ValueError(f"{path} must hold a JSON object per line, got {got} on line {number}; {remedy}")
        yield number, value


def read_repaired(path: Path) -> list[Record]:
    """The records of a file that is appended to; a last line that a kill or a power cut left unfinished is cut off, in the file too.

    A file that is not there has no records.

    Raises:
        ValueError: where any other line is not a JSON object.
    """
    cut_half_line(path)
    return [record for _, record in read_numbered(path, _REMOVE_LINE)] if path.exists() else []


def cut_half_line(path: Path) -> None:
    """Cuts off a last line that a kill left unfinished. For a file that nobody appends to meanwhile, or that is not there."""
    data = path.read_bytes() if path.exists() else b""
    end = data.rfind(b"\n") + 1
    if end != len(data):
        with path.open("r+b") as file:
            file.truncate(end)


def read_appended(path: Path, offset: int) -> tuple[list[Record], int]:
    """The records of the whole lines from a byte on, and the byte after them: a line that is being written is left for later.

    Raises:
        ValueError: where a whole line is not a JSON object.
    """
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        *lines, rest = file.read().split(b"\n")
        end = file.tell() - len(rest)
    decode, found = Decoder(), list[Record]()
    for line in lines:
        value, fault = _decoded(line, decode, _PER_LINE)
        if not isinstance(value, dict) or fault:
            raise ValueError(f"{path} {fault or f'must {_PER_LINE}, got {line[:60]!r}'}; remove it")
        found.append(value)
    return found, end


def to_line(record: Mapping[str, object]) -> str:
    """The record on one line that UTF-8 can hold: escaped where a server's reply holds half a surrogate pair."""
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(record)
    return line + "\n"


def write_whole(path: Path, records: Iterable[Mapping[str, object]], *, ensure_ascii: bool = False) -> None:
    """Writes a JSON Lines file, which exists only when it is complete, also after a power cut."""
    with replacing(path, durable=True) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" if ensure_ascii else to_line(record) for record in records)


def _lines(path: Path) -> Iterator[tuple[int, bytes, object, str]]:
    """Each line: its number, itself, the value that it is (None where it is not JSON), and what is wrong with that."""
    decode = Decoder()
    # As bytes: as text, lines would also end at the line separators that a text may hold.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield number, line, *_decoded(line, decode, _PER_LINE)


def _decoded(data: bytes, decode: Decoder, rule: str) -> tuple[object, str]:
    """The value that the data is, None where it is not JSON; and what is wrong with it, from `must` on."""
    try:
        # Not `utf-8-sig`: after a mark its errors count from another place.
        return decode.whole(data.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        return None, f"must {rule} in UTF-8, got {foreign_byte(error)}"
    except (ValueError, RecursionError):
        return None, ""


def foreign_byte(error: UnicodeDecodeError) -> str:
    """The byte that is not UTF-8 and its place, for error messages; of a gzipped file that it is one."""
    if error.object.startswith(GZIP_MAGIC):
        return GZIPPED
    before = error.object[: error.start]
    place = error.start - before.rfind(b"\n")
    line = before.count(b"\n") + 1
    return f"the byte 0x{error.object[error.start]:02x}, number {place}" + (f" of line {line}" if line > 1 else "")


def unreadable(error: BaseException) -> str:
    """Why a file's content can't be read at all, of the errors in `UNREADABLE`, for error messages."""
    if isinstance(error, UnicodeDecodeError):
        return f"text that is not UTF-8: {foreign_byte(error)}"
    return f"{type(error).__name__}: {error}"


class Decoder:
    """Decodes JSON values, and says what Python's decoder would lose or fail at: a key that an object has twice, an endless integer."""

    def __init__(self) -> None:
        self._fault = ""
        decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_int=self._integer)
        self._raw_decode = decoder.raw_decode

    def __call__(self, text: str, start: int = 0) -> tuple[object, int, str]:
        """The value that begins at `start`, where it ends, and what is wrong with it, if anything.

        Raises:
            json.JSONDecodeError, RecursionError: where there is none.
        """
        self._fault = ""
        value, end = self._raw_decode(text, start)
        return value, end, self._fault

    def whole(self, text: str) -> tuple[object, str]:
        """The one value that the text is, blanks at its ends aside, and what is wrong with it.

        Raises:
            json.JSONDecodeError, RecursionError: where it is none, or more than one.
        """
        value, end, fault = self(text, _after_blanks(text, 0))
        if (end := _after_blanks(text, end)) < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        return value, fault

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            self._fault = f"must have each key once, got {next(name for name in names if names.count(name) > 1)!r} twice"
        return found

    def _integer(self, digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            self._fault = f"must hold integers of at most {_MAX_DIGITS} digits, got one of {len(digits.lstrip('-'))}"
            return 0
        return int(digits)


@dataclass(frozen=True)
class BadRow:
    """What stands where no record could be read; `fault` is what is wrong, from `must` on."""

    fault: str


def unpacked(data: bytes) -> str:
    """A file's text, without its byte-order mark.

    Raises:
        OSError, EOFError, zlib.error, UnicodeDecodeError: where it is neither plain nor gzipped text in UTF-8.
    """
    return (gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data).decode().removeprefix("\ufeff")


class Rows(list[object]):
    """The records of a file, and the lines on which they stand, from 1, where each has one of its own."""

    def __init__(self, rows: Iterable[object], lines: Sequence[int] | None = None) -> None:
        super().__init__(rows)
        self._lines = lines

    def numbered(self) -> Iterator[tuple[str, object]]:
        """Each record with its place for error messages: `record 3`, and its line where blank lines are before it."""
        for number, row in enumerate(self, start=1):
            line = number if self._lines is None else self._lines[number - 1]
            yield f"record {number}" + (f" (line {line})" if line != number else ""), row


def read_rows(data: bytes) -> Rows:
    """The records of a file's content; one that can't be read, such as a line that is no JSON, is a `BadRow` among them.

    Raises:
        json.JSONDecodeError: where a list is no JSON.
        OSError, EOFError, zlib.error, UnicodeDecodeError, RecursionError: where it is neither plain nor gzipped JSON in UTF-8.
    """
    text = unpacked(data)
    if text.lstrip()[:1] == "[":
        return Rows(_members(text))
    # Files that were joined have a mark inside.
    numbered = enumerate((line.removeprefix("\ufeff") for line in text.split("\n")), start=1)
    lines = {number: line for number, line in numbered if line.strip()}
    if lines and not _is_json(next(iter(lines.values()))) and (objects := _objects(text)):
        return Rows(objects)
    return Rows(map(_parse, lines.values()), list(lines))


def _is_json(line: str) -> bool:
    try:
        Decoder().whole(line)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _parse(line: str) -> object:
    try:
        return _row(*Decoder().whole(line))
    except (json.JSONDecodeError, RecursionError):
        return BadRow(f"must hold a JSON object per line, got {line[:60]!r}")


def _row(value: object, fault: str) -> object:
    return BadRow(fault) if fault else value


def _members(text: str) -> list[object]:
    """The members of a list, decoded one by one: so a fault is that of one of them."""
    decode, found = Decoder(), list[object]()
    place = _after_blanks(text, _after_blanks(text, 0) + 1)
    while found or text[place : place + 1] != "]":
        value, place, fault = decode(text, place)
        found.append(_row(value, fault))
        place = _after_blanks(text, place)
        if text[place : place + 1] == "]":
            break
        if text[place : place + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        place = _after_blanks(text, place + 1)
    if (end := _after_blanks(text, place + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return found


def _objects(text: str) -> list[object]:
    """Objects that are written over several lines each, as pretty-printers do; none where that is not what the text holds."""
    decode, found, place = Decoder(), list[object](), 0
    try:
        while (place := _after_blanks(text, place)) < len(text):
            value, place, fault = decode(text, place)
            found.append(_row(value, fault))
    except (json.JSONDecodeError, RecursionError):
        return []
    return found


def _after_blanks(text: str, place: int) -> int:
    match = _BLANKS.match(text, place)
    assert match is not None
    return match.end()
