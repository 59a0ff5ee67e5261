"""Records out of files and hubs, one at a time, each with its line: JSON Lines, JSON arrays, CSV, Parquet and Arrow.

A local file or folder, an fsspec URL, or a hub's data set; the whole of a file is never in memory. JSON itself is in
data/reading/formats.py.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from data.reading.files import as_local, ending_of, is_gzip, is_known, list_files, open_file
from data.reading.formats import LOST_BYTES, check_utf8, json_records
from data.reading.formats import Bad as Bad  # a record is one, or none
from evaluation.records import read_json

_CHUNK_BYTES = 1 << 20
# What pandas, and so the datasets library, takes for a missing value in CSV; nothing at all stays an empty text.
_MISSING = {"NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "NA", "N/A", "n/a", "<NA>", "#NA", "#N/A", "#N/A N/A"}
_MISSING |= {"1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"}


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
class Raw:
    """One record as it was found: its file (empty where there is only one), its line from 1, and a JSON line that is not yet parsed,
    an object, or what is wrong. `alone` says that it is all that a JSON file holds."""

    file: str
    line: int
    value: bytes | dict[str, Any] | Bad
    alone: bool = False

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
            return
        source = replace(source, path=as_local(source.path))
        _check_local(source)
        if (saved := _saved_set(source)) is not None:
            yield from self._set(saved)
            return
        files = list_files(source.path, source.split)
        self._total = sum(file.num_bytes for file in files)
        for file in files:
            for line, value, alone in _marked_alone(self._file(file.path), file.path):
                yield Raw(file.name if len(files) > 1 else "", line, value, alone)
            self._done, self._open = self._done + file.num_bytes, None

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
                if ending in (".jsonl", ".ndjson", ".json"):
                    check_utf8(unpacked, path)
                    yield from json_records(unpacked, path, _CHUNK_BYTES)
                elif ending == ".csv":
                    check_utf8(unpacked, path)
                    yield from _csv(unpacked, path)
                else:
                    yield from _arrow(unpacked, path, ending)
                if is_gzip(path) and not file.tell():
                    # gzip takes it for one that holds nothing; packed nothing has a header.
                    raise EOFError("it holds no byte")
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ValueError(f"data.path must be a whole gzip file, got {path} ({error}); fetch it again") from error


def _marked_alone(
    records: Iterator[tuple[int, bytes | dict[str, Any] | Bad]], path: str
) -> Iterator[tuple[int, bytes | dict[str, Any] | Bad, bool]]:
    """The records, each with whether it is all that a JSON file holds; a single line of JSON Lines is a row like any other."""
    first, second = next(records, None), next(records, None)
    if first is not None:
        over_lines = ending_of(path) in (".jsonl", ".ndjson") and isinstance(first[1], dict)
        yield *first, second is None and (over_lines or ending_of(path) == ".json")
    if second is not None:
        yield *second, False
        yield from ((line, value, False) for line, value in records)


def _check_local(source: DataSource) -> None:
    """Refuses what only a hub's set has."""
    for name in ("config", "revision"):
        if getattr(source, name) is not None:
            raise ValueError(
                f"data.{name} must be left out for files, got {getattr(source, name)} for {source.path}; remove it, and name the "
                "folder or file that you mean"
            )


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
    folder, split = Path(source.path), source.split
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json", "save the data set there again")["splits"]
        if split is None or split not in splits:
            raise ValueError(f"data.split must be one of {', '.join(splits)}, got {split}; set data.split={splits[0]}")
        folder, split = folder / split, None
    if not (folder / "state.json").is_file():
        return None
    import datasets

    found = datasets.load_from_disk(str(folder))
    if split not in (None, str(found.split or "train")):
        raise ValueError(f"data.split must be the split that {folder} was saved as ({found.split}), got {split}; remove it")
    return found


def _csv(file: Any, path: str) -> Iterator[tuple[int, dict[str, Any] | Bad]]:
    """CSV with a header. A cell may be as long as it likes; a quote that is not closed would make one cell of all that follows.

    What stands for a missing value is none: it would be learned as a text.
    """
    csv.field_size_limit((1 << 31) - 1)
    rows = csv.reader(io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for row in rows:
            if len(row) > 1 or "".join(row).strip():  # else the line is blank
                if not header:
                    header = _different(row, path)
                elif any(map(LOST_BYTES.search, row)):
                    yield line, Bad("not_utf8", "holds bytes that are not UTF-8")
                elif [row[0].removeprefix("\ufeff"), *row[1:]] == header:
                    yield line, Bad("bad_schema", "repeats the header, as in files that were joined")
                elif len(row) != len(header):
                    yield line, Bad("bad_schema", f"must have {len(header)} cells, as the header has, got {len(row)}")
                else:
                    yield line, {name: None if cell in _MISSING else cell for name, cell in zip(header, row, strict=True)}
            line = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"data.path must be CSV whose quotes are closed, and doubled inside a cell, got {path}: {error}, in the row that begins on "
            f"line {line}; correct the row"
        ) from error


def _different(header: list[str], path: str) -> list[str]:
    """The header, whose columns must have different names; those without a name can't be asked for, and may be several."""
    if len(header) == 1 and (other := next((mark for mark in ";\t|" if mark in header[0]), None)):
        raise ValueError(
            f"data.path must be CSV with commas, got {path}, whose header has {other!r} instead; write it with commas"
        )
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
            _check_names(batch.schema, path, "columns")
            for row in _rows(batch):
                number += 1
                yield number, row
    # Bytes that can't be unpacked are an OSError of pyarrow's, as is a file that ends in its middle.
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"data.path must be a whole {ending} file, got {path} ({error}); fetch it again") from error


def _check_names(fields: Any, path: str, kind: str) -> None:
    """Refuses columns, or fields inside one, of the same name: one of them would be lost."""
    names = [field.name for field in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"data.path must hold {kind} with different names, got {twice!r} twice in {path}; rename one")
    for one in fields:
        _check_names([one.type.field(place) for place in range(one.type.num_fields)], path, f"fields of {one.name}")


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
