"""Raw records become rows by the source that the recipe names."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from types import ModuleType

from data.reading.formats import parse_line
from data.reading.records import Bad, DataSource, Raw
from data.rows import SHARED, Columns, Fields, Row, RowError

# What a source may say that it gives.
KINDS = ("pairs", "labels", "ratings", "prompts")


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
        # A column without a value is as good as none: what is missing is not listed among what the row has.
        fields = Fields({name: found for name, found in value.items() if found is not None}, self._columns)
        try:
            return _id(fields, raw), fields.completed(self._module.row(fields), self._unused)
        except RowError as error:
            hint = (
                "; the file is one JSON object, taken for one row: write several as an array, or one per line"
                if raw.alone
                else ""
            )
            return raw.where, Bad(error.reason, f"{error}{hint}")


def _id(fields: Fields, raw: Raw) -> str:
    """The record's own id, else its place; NaN, which pandas writes for a missing number, is none."""
    id = fields.need("id") if fields.has("id") else math.nan
    return raw.where if isinstance(id, float) and not math.isfinite(id) else str(id)


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


def gives(name: str) -> str:
    """What a source of preferences gives, as its file says in `GIVES`: `pairs`, `labels` of single completions, `ratings` of them, or
    `prompts` alone.

    Raises:
        ValueError: its file doesn't say.
    """
    found = getattr(preference_source(name), "GIVES", None)
    if found not in KINDS:
        raise ValueError(f"data/sources/{name}.py must say what it GIVES: {', '.join(KINDS)}, got {found!r}; add `GIVES = …`")
    return str(found)


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


def is_pair(row: Row) -> bool:
    """Whether the row says of two completions which is the better one."""
    return sorted(one.label or 0 for one in row.candidates) == [-1, 1]
