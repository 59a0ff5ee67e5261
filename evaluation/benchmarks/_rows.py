"""Rows of a benchmark's upstream data: from a hub, from a local file, or from the project's own sample.

A local file is CSV or Parquet where its name ends so, else JSON Lines.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from evaluation.hub_loading import load_set
from evaluation.records import GZIPPED, Decoder, Record, foreign_byte
from evaluation.types import Hub, Item, Items, hub_commit

T = TypeVar("T")
SAMPLES = Path(__file__).parent / "samples"
_ID_KIND = "text or a whole number"
# Stands for a text that a row lacks, while it is asked for the others.
_MISSING = "?"


@dataclass(frozen=True)
class Row:
    """One row, with its place for error messages and its number, from 0, in the whole source."""

    benchmark: str
    number: int
    where: str
    values: Record
    # Where it is a list, what the row lacks is put there, and a stand-in taken.
    lacking: list[tuple[Sequence[str], str]] | None = None

    def get(self, *names: str, kind: type[T]) -> T:
        """The first of the named fields that the row has.

        Raises:
            ValueError: where it has none of them, or the value is of another kind.
        """
        for name in names:
            value = self.values.get(name)
            if isinstance(value, kind):
                return value
        if self.lacking is not None:
            self.lacking.append((names, kind.__name__))
            return _stand_in(kind)
        raise self._lacks([(names, kind.__name__)])

    def id(self, *names: str) -> str:
        """The first of the named fields that the row has, as text; a whole number is an id too.

        Raises:
            ValueError: where it has none of them.
        """
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool):
                return str(value)
        if self.lacking is not None:
            self.lacking.append((names, _ID_KIND))
            return _stand_in(str)
        raise self._lacks([(names, _ID_KIND)])

    def error(self, rule: str, got: object) -> ValueError:
        return _error(self.benchmark, rule, got, self.where)

    def refusal(self, fault: str) -> ValueError:
        """The error of a fault that names its rule and what it got."""
        return _refusal(self.benchmark, fault, self.where)

    def item(self, to_item: Callable[[Row], Item | str]) -> Item | str:
        """What `to_item` makes of the row.

        Raises:
            ValueError: as `to_item`; where the row lacks fields, with all of those.
        """
        try:
            return to_item(self)
        except _LacksError:
            asked = replace(self, lacking=[])
            # Behind stand-ins for what is missing anything may fail: it is asked for names alone.
            with contextlib.suppress(Exception):
                to_item(asked)
            raise asked._lacks(asked.lacking or []) from None

    def _lacks(self, lacking: Sequence[tuple[Sequence[str], str]]) -> _LacksError:
        asked = dict.fromkeys(f"{' or '.join(names)} as {kind}" for names, kind in lacking)
        found = {name: self.values[name] for names, _ in lacking for name in names if name in self.values}
        # A CSV file's cells are texts.
        is_list = any(kind == "list" for _, kind in lacking)
        hint = " (a CSV file holds none: give Parquet or JSON Lines)" if is_list and found else ""
        rule = f"have {', '.join(asked)} in each row{hint}"
        return _LacksError(str(self.error(rule, found or f"fields {list(self.values)}")))


class _LacksError(ValueError):
    """A row lacks fields, or has them as something else."""


def _stand_in(kind: type[T]) -> T:
    """A value of the kind for a field that a row lacks."""
    return cast(T, _MISSING) if kind is str else kind()


def load_items(
    benchmark: str,
    source: str | None,
    limit: int | None,
    hub: Hub,
    num_items: int | None,
    to_item: Callable[[Row], Item | str],
    *,
    asks_once: bool = False,
    counts_rows: bool = False,
) -> Items:
    """The first `limit` items. A row for which `to_item` gives a text is no item, for that reason.

    Where the protocol fixes the number of items, the whole source is read whatever the limit, and counted: the first rows of another
    data set may look like the benchmark's.

    Args:
        source: None for the hub, or `hub_source` for one commit of its set, "sample" for the project's own items, else a file's path.
        num_items: How many the protocol has: the hub's data set must give as many, and a file no more. None: the protocol doesn't say.
        counts_rows: Whether `num_items` counts the rows that are no items, too.
        asks_once: Whether no two of the benchmark's items have one question. Ids that are row numbers show no row that is there twice.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where a row has another schema, an id or a question that is asked once comes twice, no row is an item, or there are not
            the protocol's items.
    """
    rows = _rows(benchmark, source, hub)
    items, fault_of, places = Items(), load(BENCHMARKS, benchmark).item_fault, list[str]()
    for row in rows:
        found = row.item(to_item)
        if isinstance(found, str):
            items.left_out[found] += 1
            continue
        if (wrong := fault_of(found)) is not None:
            raise row.refusal(wrong)
        items.append(found)
        places.append(row.where)
        if len(items) == limit and num_items is None:
            break
    counts = Counter(item["id"] for item in items)
    if len(counts) != len(items):
        twice = counts.most_common(1)[0][0]
        raise ValueError(f"{benchmark}.source must have unique ids, got {twice!r} twice; remove one of the rows")
    if not items:
        raise ValueError(
            f"{benchmark}.source must hold items of the benchmark, got none in {hub.id if _is_hub(source) else source}; give another file"
        )
    if num_items is not None:
        _check_count(benchmark, source, hub, len(items) + (items.left_out.total() if counts_rows else 0), num_items)
    if asks_once:
        _check_questions(benchmark, items, places)
    if num_items is not None and limit is not None:
        del items[limit:]
    return items


def _check_questions(benchmark: str, items: Sequence[Item], places: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for item, where in zip(items, places, strict=True):
        question = " ".join(item["question"].split())
        if question in seen:
            raise ValueError(
                f"{benchmark}.source must ask each question once, got {question[:100]!r} at {seen[question]} and again at {where}; "
                "remove one of the rows, or give the benchmark's upstream file"
            )
        seen[question] = where


def _check_count(benchmark: str, source: str | None, hub: Hub, found: int, num_items: int) -> None:
    if _is_hub(source) and found != num_items:
        raise ValueError(
            f"{benchmark}.source must give the protocol's {num_items} items, got {found} from {hub.id}; "
            "the data set has changed: give a local file of the version you mean"
        )
    if found > num_items:
        raise ValueError(
            f"{benchmark}.source must give at most the protocol's {num_items} items, got {found} from {source}; "
            "it is another data set: give the benchmark's own file, or name the benchmark that it belongs to"
        )


def load_file(
    benchmark: str, source: str | None, limit: int | None, to_item: Callable[[Row], Item], upstream: str
) -> list[Item]:
    """The first `limit` items of a benchmark that no hub has: a local file, or "sample".

    Args:
        upstream: What to give, for the error message.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where none is named, a row has another schema, an id comes twice, or there is no row.
    """
    if source is None:
        raise ValueError(f"{benchmark}.source must be a file, got none; give {upstream}{_or_sample(benchmark)}")
    return load_items(benchmark, source, limit, Hub("", []), None, to_item)


def id_prefix(benchmark: str, source: str | None) -> str:
    """The start of ids where upstream has none. Ids of the project's own sample say so."""
    return f"{benchmark}-sample" if source == "sample" else benchmark


def _rows(benchmark: str, source: str | None, hub: Hub) -> Iterator[Row]:
    if source is None or _is_hub(source):
        return _hub_rows(benchmark, hub, hub_commit(source))
    path = SAMPLES / f"{benchmark}.jsonl" if source == "sample" else Path(source)
    if source == "sample" and not path.is_file():
        raise FileNotFoundError(
            f"{benchmark}.source must be a file{', or left out for the hub,' if hub.id else ''} where the project has no items of its own "
            "in the benchmark's format, got sample; give the benchmark's upstream file"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{benchmark}.source must be an existing file, got {path}; give the benchmark's upstream file{_or_sample(benchmark)}"
        )
    reader = {".csv": _csv_rows, ".parquet": _parquet_rows}.get(path.suffix.lower(), _jsonl_rows)
    return reader(benchmark, path)


def _csv_rows(benchmark: str, path: Path) -> Iterator[Row]:
    rule = "be CSV with a header and a value for each of its columns"
    # A row can have line breaks within quotes, so rows are numbered, from 1 after the header.
    where = f"{path}, row 1"
    try:
        # As a whole: a reader of parts would find a stray byte while it is at an earlier row.
        text = path.read_bytes().decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _not_utf8(benchmark, error, str(path)) from error
    # A cell of any length: the module's own limit is 131,072 characters.
    csv.field_size_limit((1 << 31) - 1)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        # A blank line holds nothing.
        full = (row for row in rows if len(row) > 1 or "".join(row).strip())
        header = next(full, [])
        if len(set(header)) < len(header):
            raise _error(benchmark, rule, f"the columns {header}", where)
        for number, values in enumerate(full):
            where = f"{path}, row {number + 1}"
            if len(values) != len(header):
                raise _error(benchmark, rule, f"{len(values)} values for {len(header)} columns", where)
            yield Row(benchmark, number, where, dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise _error(benchmark, rule, f"{type(error).__name__}: {error}", where) from error


def _parquet_rows(benchmark: str, path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    yield Row(benchmark, number, f"{path}, row {number + 1}", values)
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise _error(benchmark, "be a Parquet file", f"{type(error).__name__}: {error}", f"{path}, row {number + 1}") from error


def _jsonl_rows(benchmark: str, path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        number = 0
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where, rule = f"{path}, line {line_number}", "hold a JSON object on each line"
            try:
                values, fault = Decoder().whole(line.decode().removeprefix("\ufeff"))
            except UnicodeDecodeError as error:
                raise _not_utf8(benchmark, error, where) from error
            except (ValueError, RecursionError) as error:
                raise _error(benchmark, rule, f"{type(error).__name__}: {error}", where) from error
            if fault:
                raise ValueError(f"{benchmark}.source {fault} at {where}; correct it, or give the benchmark's upstream file")
            if not isinstance(values, dict):
                raise _error(benchmark, rule, type(values).__name__, where)
            yield Row(benchmark, number, where, values)
            number += 1


def _is_hub(source: str | None) -> bool:
    return source is None or hub_commit(source) is not None


def _hub_rows(benchmark: str, hub: Hub, commit: str | None) -> Iterator[Row]:
    number = 0
    for config in hub.configs:
        try:
            rows = load_set(hub.id, config, split=hub.split, **({} if commit is None else {"revision": commit}))
        except (OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
            raise FileNotFoundError(
                f"{benchmark}.source must be reachable, got the hub's {hub.id} ({reason}); give a local file{_or_sample(benchmark)}"
            ) from error
        for values in rows:
            named = {} if hub.config_field is None else {hub.config_field: config}
            yield Row(benchmark, number, f"{hub.id}, row {number}", {**named, **values})
            number += 1


def _not_utf8(benchmark: str, error: UnicodeDecodeError, where: str) -> ValueError:
    got = foreign_byte(error)
    if got == GZIPPED:
        return ValueError(
            f"{benchmark}.source must be text in UTF-8, got {got}, {where.split(', ')[0]}; unpack it, as with gunzip"
        )
    return ValueError(
        f"{benchmark}.source must be text in UTF-8, got {got} (UnicodeDecodeError), at {where}; convert the file, as with "
        "iconv, or give the benchmark's upstream file"
    )


def _error(benchmark: str, rule: str, got: object, where: str) -> ValueError:
    return _refusal(benchmark, f"{rule}, got {str(got)[:200]}", where)


def _refusal(benchmark: str, fault: str, where: str) -> ValueError:
    return ValueError(
        f"{benchmark}.source must {fault[:400]} at {where}; give the benchmark's upstream file{_or_sample(benchmark)}"
    )


def _or_sample(benchmark: str) -> str:
    """The project's own items as a remedy, for the benchmarks that have some."""
    return ", or `sample`" if (SAMPLES / f"{benchmark}.jsonl").is_file() else ""
