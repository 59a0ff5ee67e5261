"""Reads a source's records one at a time, each with its line: JSON Lines, JSON arrays, CSV, Parquet and Arrow.

The source is a local file or folder, an fsspec URL, or a data set of the hub. No file is ever whole in memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.reading.files import ByteFile, as_local, ending_of, is_gzip, is_known, list_files, open_file
from data.reading.formats import LOST_BYTES, check_utf8, json_records, parse_line
from data.reading.formats import Bad as Bad  # a `Raw` holds one where it holds no record
from evaluation.bundle import in_bundle
from evaluation.hub_loading import load_set
from evaluation.records import Record, read_json

if TYPE_CHECKING:
    import datasets
    import pyarrow

_CHUNK_BYTES = 1 << 20
# What pandas, and so the datasets library, takes for a missing value in CSV; nothing at all stays an empty text.
_MISSING = {"NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "NA", "N/A", "n/a", "<NA>", "#NA", "#N/A", "#N/A N/A"}
_MISSING |= {"1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"}


@dataclass(frozen=True)
class DataSource:
    """One source of a recipe's `data`: which file of `data/sources` reads it, where it lies, and what its columns are called.

    `path` is a local file or folder, an fsspec URL, or a hub id. `split`, `config`, `revision` and `streaming` are load_dataset's, for a
    hub id; `split` picks a folder's files too. `weight` is its part of a mixture; None takes all of it. `limit` is how many prompts are
    taken, in the order in which they first appear.
    """

    source: str
    path: str
    columns: Mapping[str, str] = field(default_factory=dict)
    weight: float | None = None
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    streaming: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class Raw:
    """One record as it was read, not yet parsed where it is a line of JSON Lines.

    `file` is empty where there is only one file, `line` counts from 1, and `alone` says that a JSON file holds nothing else.
    """

    file: str
    line: int
    value: bytes | Record | Bad
    alone: bool = False

    def parsed(self) -> Record | Bad:
        """The record, or what is wrong with it."""
        return parse_line(self.value, self.line) if isinstance(self.value, bytes) else self.value

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}" if self.file else str(self.line)


class Reader:
    """Iterates over a source's records; `progress` says how much of them is read.

    Attributes:
        unit: of `progress`: bytes of files, or records of a set.

    Raises:
        FileNotFoundError: where there is nothing at the path, or the hub can't be reached.
        ValueError: where a file is of no known format, or ends in its middle.
    """

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self._done = self._total = 0
        self._open: ByteFile | None = None
        self.unit = "bytes"

    @property
    def progress(self) -> tuple[int, int]:
        """(done, total)."""
        return self._done + (self._open.tell() if self._open is not None and not self._open.closed else 0), self._total

    def __iter__(self) -> Iterator[Raw]:
        source = self._source
        if is_hub_id(source.path):
            yield from self._set(_load_hub(source))
            return
        source = replace(source, path=as_local(in_bundle(source.path)))
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

    def _set(self, rows: Iterable[Mapping[str, object]]) -> Iterator[Raw]:
        self._total, self.unit = len(rows) if isinstance(rows, Sized) else 0, "records"
        for line, row in enumerate(rows, start=1):
            self._done = line
            yield Raw("", line, dict(row))

    def _file(self, path: str) -> Iterator[tuple[int, bytes | Record | Bad]]:
        ending = ending_of(path)
        with closing(open_file(path)) as file:
            self._open = file
            unpacked: ByteFile = gzip.GzipFile(fileobj=file) if is_gzip(path) else file
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
                    # The gzip module takes a file without a byte for a packed empty one, which would have a header.
                    raise EOFError("it holds no byte")
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ValueError(f"data.path must be a whole gzip file, got {path} ({error}); fetch it again") from error


def _marked_alone(
    records: Iterator[tuple[int, bytes | Record | Bad]], path: str
) -> Iterator[tuple[int, bytes | Record | Bad, bool]]:
    """The records, each with whether a JSON file holds nothing else; a single line of JSON Lines is a row like any other."""
    first, second = next(records, None), next(records, None)
    if first is not None:
        over_lines = ending_of(path) in (".jsonl", ".ndjson") and isinstance(first[1], dict)
        yield *first, second is None and (over_lines or ending_of(path) == ".json")
    if second is not None:
        yield *second, False
        yield from ((line, value, False) for line, value in records)


def _check_local(source: DataSource) -> None:
    """Refuses for local files what only a set of the hub has."""
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


def _load_hub(source: DataSource) -> Iterable[Mapping[str, object]]:
    asked = {"split": source.split or "train", "revision": source.revision, "streaming": source.streaming}
    try:
        rows: Iterable[Mapping[str, object]] = load_set(source.path, source.config, **asked)
        return rows
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise FileNotFoundError(
            f"data.path must be a file, a folder or a data set that the hub gives, got {source.path} ({type(error).__name__}: {reason}); "
            "check the id, data.split, data.config and the network"
        ) from error


def _saved_set(source: DataSource) -> datasets.Dataset | None:
    """A folder that datasets' save_to_disk wrote, or None."""
    folder, split = Path(source.path), source.split
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json", "save the data set there again")["splits"]
        if split is None or split not in splits:
            raise ValueError(f"data.split must be one of {', '.join(splits)}, got {split}; set data.split={splits[0]}")
        folder, split = folder / split, None
    if not (folder / "state.json").is_file():
        return None
    remedy = "save the data set there again"
    files = [str(file["filename"]) for file in read_json(folder / "state.json", remedy)["_data_files"]]
    if outside := [name for name in files if Path(name).name != name]:
        raise ValueError(
            f"data.path must be a saved set whose files lie in its folder, got {folder} with {outside[0]!r} in state.json; {remedy}"
        )
    import datasets

    found = datasets.load_from_disk(str(folder))
    if split not in (None, str(found.split or "train")):
        raise ValueError(f"data.split must be the split that {folder} was saved as ({found.split}), got {split}; remove it")
    return found


def _csv(file: ByteFile, path: str) -> Iterator[tuple[int, Record | Bad]]:
    """Rows of a CSV file with a header, a cell of any length. Words for a missing value become None: they would be learned as text.

    Raises:
        ValueError: a quote is not closed, which would make one cell of all that follows.
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
    """The header. Its columns must have different names; several may have none, as nothing can ask for these."""
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


def _arrow(file: ByteFile, path: str, ending: str) -> Iterator[tuple[int, Record | Bad]]:
    import pyarrow

    try:
        if ending == ".parquet":
            import pyarrow.parquet

            batches = pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=256)
        else:
            batches = _arrow_batches(file)
        number = 0
        for batch in batches:
            _check_names(batch.schema, path, "columns")
            for row in _rows(batch):
                number += 1
                yield number, row
    # pyarrow raises an OSError for bytes that can't be unpacked, and for a file that ends in its middle.
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"data.path must be a whole {ending} file, got {path} ({error}); fetch it again") from error


def _check_names(fields: Iterable[pyarrow.Field], path: str, kind: str) -> None:
    """Refuses columns, or fields inside one, of the same name: one of them would be lost."""
    names = [field.name for field in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"data.path must hold {kind} with different names, got {twice!r} twice in {path}; rename one")
    for one in fields:
        _check_names([one.type.field(place) for place in range(one.type.num_fields)], path, f"fields of {one.name}")


def _rows(batch: pyarrow.RecordBatch) -> Iterator[Record | Bad]:
    """A batch's rows. Text that isn't UTF-8, which writers don't check, makes its own row bad and no other."""
    try:
        rows: list[Record | Bad] = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            rows = [Bad("not_utf8", "holds bytes that are not UTF-8")]
        else:
            rows = [row for place in range(batch.num_rows) for row in _rows(batch.slice(place, 1))]
    yield from rows


def _arrow_batches(file: ByteFile) -> Iterator[pyarrow.RecordBatch]:
    """Batches of Arrow's stream format, which datasets writes, or of its file format.

    pyarrow takes a stream that stops between two batches for a whole one. Writers put a mark at the end, as the format
    (https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format) lets them, and a stream without it was cut.
    """
    import pyarrow

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
