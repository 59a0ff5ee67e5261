"""Makes rows of raw records by the source that the recipe names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from data.reading.records import Bad, DataSource, Raw
from data.rows import SHARED, Columns, Fields, Row, RowError
from data.sources import load_preferences


class Parser:
    """Turns a source's raw records into rows; the recipe's `data.columns` renames the columns that are read.

    Raises:
        ValueError: the source gives no rows, or `data.columns` names a role that it doesn't have.
    """

    def __init__(self, source: DataSource) -> None:
        self._source = load_preferences(source.source)
        self._columns = columns_of(source)

    def __call__(self, raw: Raw) -> tuple[str, Row | Bad]:
        """The record's id (its own, or else its place) and its row, or why there is none."""
        value = raw.parsed()
        if isinstance(value, Bad):
            return raw.where, value
        # Columns without a value are left out, as messages list the columns that the record has.
        fields = Fields({name: found for name, found in value.items() if found is not None}, self._columns)
        try:
            return _id(fields, raw), fields.completed(self._source.row(fields), self._source.UNUSED)
        except RowError as error:
            hint = (
                "; the file is one JSON object, taken for one row: write several as an array, or one per line"
                if raw.alone
                else ""
            )
            return raw.where, Bad(error.reason, f"{error}{hint}")


def _id(fields: Fields, raw: Raw) -> str:
    """The record's own id, or else its place; NaN, which pandas writes for a missing number, is no id."""
    id = fields.need("id") if fields.has("id") else math.nan
    return raw.where if isinstance(id, float) and not math.isfinite(id) else str(id)


def columns_of(source: DataSource) -> Columns:
    """The source's columns by their roles; a column that the recipe names is the only one looked for.

    Raises:
        ValueError: the recipe names a role that the source doesn't have.
    """
    columns: dict[str, Sequence[str]] = {**load_preferences(source.source).COLUMNS}
    columns |= {role: names for role, names in SHARED.items() if role not in columns}
    unknown = sorted(source.columns.keys() - columns.keys())
    if unknown:
        raise ValueError(
            f"data.columns must name roles of the source {source.source} ({', '.join(columns)}), got {unknown[0]}; rename it"
        )
    return columns | {role: (name,) for role, name in source.columns.items()}
