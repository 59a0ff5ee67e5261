"""Records out of files and hubs, one at a time, each with its line: JSON Lines, JSON arrays, CSV, Parquet and Arrow.

A local file or folder, an fsspec URL, or a hub's data set; the whole of a file is never in memory.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from data._files import ending_of, is_gzip, is_known, list_files, open_file

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class DataSource:
    """One source of a recipe's `data`: which file of `data/sources` reads it, where it lies, and what its columns are called.

    `path` is a local file or folder, an fsspec URL, or a hub id; `split`, `config`, `revision` and `streaming` are load_dataset's for
    the latter, and `split` picks a folder's files too. `weight` is its part of a mixture, None for all of it.
    """

    source: str
    path: str
    columns: Mapping[str, str] = field(default_factory=dict)
    weight: float | None = None
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    streaming: bool = False


@dataclass(frozen=True)
class Bad:
    """What stands where no record could be read: `reason` is a word for the ledger, `detail` a sentence for people."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Raw:
    """One record as it was found: its file (empty where there is only one), its line from 1, and a JSON line that is not yet parsed,
    an object, or what is wrong."""

    file: str
    line: int
    value: bytes | dict[str, Any] | Bad

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}" if self.file else str(self.line)


class Reader:
    """Iterates over a source's records; `progress` says how much of them is read.

    Raises:
        FileNotFoundError: where there is nothing at the path, or the hub can't be reached.
        ValueError: where a file is of no known format, or ends in its middle.
    """

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self._done = self._total = 0
        self._open: BinaryIO | None = None

    @property
    def progress(self) -> tuple[int, int]:
        """(done, total), in bytes of files or records of a hub's set."""
        return self._done + (self._open.tell() if self._open is not None and not self._open.closed else 0), self._total

    def __iter__(self) -> Iterator[Raw]:
        source = self._source
        if is_hub_id(source.path):
            yield from self._set(_load_hub(source))
        elif (saved := _saved_set(source)) is not None:
            yield from self._set(saved)
        else:
            files = list_files(source.path, source.split)
            self._total = sum(size for _, size in files)
            for path, size in files:
                name = path.removeprefix(source.path).lstrip("/") if len(files) > 1 else ""
                for line, value in self._file(path):
                    yield Raw(name, line, value)
                self._done, self._open = self._done + size, None

    def _set(self, rows: Any) -> Iterator[Raw]:
        self._total = len(rows) if hasattr(rows, "__len__") else 0
        for line, row in enumerate(rows, start=1):
            self._done = line
            yield Raw("", line, dict(row))

    def _file(self, path: str) -> Iterator[tuple[int, bytes | dict[str, Any] | Bad]]:
        ending = ending_of(path)
        with closing(open_file(path)) as file:
            self._open = file
            unpacked: Any = gzip.GzipFile(fileobj=file) if is_gzip(path) else file
            try:
                if ending == ".json" and _begins_with(unpacked, b"["):
                    yield from _json_array(unpacked, path)
                elif ending in (".jsonl", ".ndjson", ".json"):
                    yield from ((number, line) for number, line in enumerate(unpacked, start=1) if line.strip())
                elif ending == ".csv":
                    yield from _csv(unpacked, path)
                else:
                    yield from _arrow(unpacked, path, ending)
                if is_gzip(path) and not file.tell():
                    # gzip takes it for one that holds nothing; packed nothing has a header.
                    raise EOFError("it holds no byte")
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ValueError(f"data.path must be a whole gzip file, got {path} ({error}); fetch it again") from error


def is_hub_id(path: str) -> bool:
    """Whether a `data.path` that is no local path names a hub's data set: `owner/name`, no URL and no path that was mistyped."""
    begins_locally = path.startswith((".", "/", "~", "data/"))
    return path.count("/") == 1 and "://" not in path and not begins_locally and not is_known(path) and not Path(path).exists()


def _load_hub(source: DataSource) -> Any:
    import datasets

    try:
        return datasets.load_dataset(
            source.path, source.config, split=source.split or "train", revision=source.revision, streaming=source.streaming
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise FileNotFoundError(
            f"data.path must be a file, a folder or a data set that the hub gives, got {source.path} ({type(error).__name__}: {reason}); "
            "check the id, data.split, data.config and the network"
        ) from error


def _saved_set(source: DataSource) -> Any:
    """A folder that datasets' save_to_disk wrote, or None."""
    folder = Path(source.path)
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        if source.split is None or source.split not in splits:
            raise ValueError(f"data.split must be one of {', '.join(splits)}, got {source.split}; set data.split={splits[0]}")
        folder /= source.split
    if not (folder / "state.json").is_file():
        return None
    import datasets

    return datasets.load_from_disk(str(folder))


def _begins_with(file: Any, byte: bytes) -> bool:
    """Whether the first byte that is no white space is this one; the file is at its beginning before and after."""
    head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    file.seek(0)
    return bool(head[:1] == byte)


def _json_array(file: Any, path: str) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    """The objects of a JSON array, decoded as they come; an object's line is the one that it begins on."""
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape")
    decode = json.JSONDecoder().raw_decode
    buffer, position, line, size = text.read(_CHUNK_BYTES), 0, 1, _CHUNK_BYTES
    whole, awaited, column = not buffer, "[", 0  # column: characters of the buffer's first line that it no longer holds
    while True:
        # What stands before the next object: white space, and the bracket or comma that is awaited.
        start = position
        while position < len(buffer) and (buffer[position].isspace() or buffer[position] == awaited):
            awaited = "" if buffer[position] == awaited else awaited
            position += 1
        line += buffer.count("\n", start, position)
        if buffer[position : position + 1] == "]":
            _end(text, buffer[position + 1 :], path, line)
            return
        try:
            if awaited:
                raise json.JSONDecodeError(f"Expecting '{awaited}'", buffer, position)
            value, end = decode(buffer, position)
        except (json.JSONDecodeError, RecursionError) as error:
            if whole:
                raise _ill_formed(path, buffer, position, line, column, error) from error
            # Cut in its middle, or wrong: with more of the file it shows.
            more = text.read(size)
            whole, size = not more, 2 * size
            last = buffer.rfind("\n", 0, position)
            column = position - last - 1 if last >= 0 else column + position
            buffer, position = buffer[position:] + more, 0
            continue
        source = buffer[position:end]
        yield line, _checked(value, source)
        line += source.count("\n")
        position, awaited, size = end, ",", _CHUNK_BYTES


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
        rest = text.read(_CHUNK_BYTES)


def _ill_formed(path: str, buffer: str, position: int, line: int, column: int, error: Exception) -> ValueError:
    message = str(error)
    if isinstance(error, json.JSONDecodeError):
        last = buffer.rfind("\n", 0, error.pos)
        column = error.pos - last if last >= 0 else column + error.pos + 1
        message = f"{error.msg} at line {line + buffer.count(chr(10), position, error.pos)}, column {column}"
    return ValueError(
        f"data.path must be a JSON array, got {path}: {message}; correct it, or write one object per line as .jsonl"
    )


def _checked(value: Any, source: str) -> dict[str, Any] | Bad:
    if any("\udc80" <= character <= "\udcff" for character in source):
        return Bad("not_utf8", "holds bytes that are not UTF-8")
    if not isinstance(value, dict):
        return Bad("bad_schema", f"must be a JSON object, got {type(value).__name__}")
    return value


def _csv(file: Any, path: str) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    """CSV with a header. A cell may be as long as it likes; a quote that is not closed would make one cell of all that follows."""
    csv.field_size_limit((1 << 31) - 1)
    rows = csv.reader(io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for row in rows:
            if len(row) > 1 or "".join(row).strip():  # else the line is blank
                if not header:
                    header = _different(row, path)
                elif any("\udc80" <= character <= "\udcff" for cell in row for character in cell):
                    yield line, Bad("not_utf8", "holds bytes that are not UTF-8")
                elif len(row) != len(header):
                    yield line, Bad("bad_schema", f"must have {len(header)} cells, as the header has, got {len(row)}")
                else:
                    yield line, dict(zip(header, row, strict=True))
            line = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"data.path must be CSV whose quotes are closed, and doubled inside a cell, got {path}: {error}, in the row that begins on "
            f"line {line}; correct the row"
        ) from error


def _different(header: list[str], path: str) -> list[str]:
    """The header, whose columns must have different names; those without a name can't be asked for, and may be several."""
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise ValueError(
            f"data.path must be CSV whose columns have different names, got {twice[0]!r} twice in {path}; rename one"
        )
    return header


def _arrow(file: Any, path: str, ending: str) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    import pyarrow

    try:
        if ending == ".parquet":
            import pyarrow.parquet

            batches = pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=256)
        else:
            batches = _arrow_batches(pyarrow, file)
        number = 0
        for batch in batches:
            for row in _rows(batch):
                number += 1
                yield number, row
    # Bytes that can't be unpacked are an OSError of pyarrow's, as is a file that ends in its middle.
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"data.path must be a whole {ending} file, got {path} ({error}); fetch it again") from error


def _rows(batch: Any) -> Iterator[dict[str, Any] | Bad]:
    """A batch's rows. Formats call text UTF-8 that writers never looked at: it costs its own row and no other."""
    try:
        rows: list[dict[str, Any] | Bad] = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            rows = [Bad("not_utf8", "holds bytes that are not UTF-8")]
        else:
            rows = [row for place in range(batch.num_rows) for row in _rows(batch.slice(place, 1))]
    yield from rows


def _arrow_batches(pyarrow: Any, file: Any) -> Iterator[Any]:
    """Batches of Arrow's stream format, which datasets writes, or of its file format.

    pyarrow takes a stream that stops between two batches for a whole one. Writers put a mark at the end, as the format
    (https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format) lets them, and a stream without it was cut.
    """
    if file.read(6) == b"ARROW1":
        file.seek(0)
        reader = pyarrow.ipc.open_file(file)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        return
    file.seek(0)
    stream, num_rows = pyarrow.ipc.open_stream(file), 0
    while True:
        end = file.tell()
        try:
            batch = stream.read_next_batch()
        except StopIteration:
            break
        num_rows += batch.num_rows
        yield batch
    if file.tell() == end:
        raise pyarrow.ArrowInvalid(f"it stops after row {num_rows} without the mark of a stream's end")
    if file.read(1):
        raise pyarrow.ArrowInvalid(f"it goes on after the mark of the stream's end, which follows row {num_rows}")
