"""Raw records become rows by the source that the recipe names."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from data._reading import Bad, DataSource, Raw
from data.sources._rows import SHARED, Columns, Fields, Row, RowError


class Parser:
    """Turns a source's raw records into rows, with the columns that the recipe renames.

    Raises:
        ValueError: where the source gives no preferences, or `data.columns` names a role that it doesn't have.
    """

    def __init__(self, source: DataSource) -> None:
        self._module = preference_source(source.source)
        self._columns = columns_of(source)
        # What the source knows of its data and leaves out on purpose.
        self._unused: Sequence[str] = getattr(self._module, "UNUSED", ())

    def __call__(self, raw: Raw) -> tuple[str, Row | Bad]:
        """The record's id (its own, else its place) and its row, or why there is none."""
        value = parse_line(raw.value, raw.line) if isinstance(raw.value, bytes) else raw.value
        if isinstance(value, Bad):
            return raw.where, value
        fields = Fields(value, self._columns)
        try:
            return (str(fields.need("id")) if fields.has("id") else raw.where), fields.completed(
                self._module.row(fields), self._unused
            )
        except RowError as error:
            return raw.where, Bad(error.reason, str(error))


def preference_source(name: str) -> ModuleType:
    """The module of a source of preferences.

    Raises:
        ValueError: where the source gives prompts for sampling and no preferences.
    """
    module = importlib.import_module(f"data.sources.{name}")
    if not hasattr(module, "row"):
        raise ValueError(
            f"data.source must give preferences, got {name}, which gives prompts to sample from; put it under sample"
        )
    return module


def columns_of(source: DataSource) -> Columns:
    """The source's columns by their roles; a column that the recipe names is the only one looked for.

    Raises:
        ValueError: for a role that the source doesn't have.
    """
    columns: dict[str, Sequence[str]] = {**preference_source(source.source).COLUMNS}
    columns |= {role: names for role, names in SHARED.items() if role not in columns}
    unknown = sorted(source.columns.keys() - columns.keys())
    if unknown:
        raise ValueError(
            f"data.columns must name roles of the source {source.source} ({', '.join(columns)}), got {unknown[0]}; rename it"
        )
    return columns | {role: (name,) for role, name in source.columns.items()}


def parse_line(line: bytes, number: int) -> dict[str, Any] | Bad:
    """A line of a JSON Lines file as its object, or what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return Bad("not_utf8", f"byte {error.start} is not UTF-8")
    except (ValueError, RecursionError) as error:
        return Bad("bad_schema", f"not JSON: {error}")
    if not isinstance(row, dict):
        return Bad("bad_schema", f"must be a JSON object, got {type(row).__name__}")
    return row


def is_pair(row: Row) -> bool:
    """Whether the row says of two completions which is the better one."""
    return sorted(one.label or 0 for one in row.candidates) == [-1, 1]
