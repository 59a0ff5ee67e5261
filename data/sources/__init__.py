"""What the records of each kind of data mean. A source's file names the columns, and makes of each record a row or a problem.

Most sources give preferences or prompts, a row for each record (`row`). Others give problems that the benchmark of the same name can score:
one for each record (`item`), or those that the project makes (`make`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Protocol

from bnf.plugins import Kind, default, load
from data.reading.records import DataSource
from data.rows import Columns, Fields, Row
from evaluation.records import Record
from evaluation.types import Item

# What a source may give.
KINDS = ("pairs", "labels", "ratings", "prompts", "problems")


class Source(Protocol):
    """What a file of this folder has.

    Attributes:
        GIVES: one of `KINDS`: pairs, labels of single completions, ratings of completions, prompts alone, or a benchmark's problems.
        COLUMNS: role → the names that its column may have; `SHARED` of data/rows.py has the roles of all sources.
        UNUSED: columns with text that the source leaves out on purpose. Every other column with text that nothing reads is reported.
        HUB: for a source of problems, where they are read from when a recipe names no path.
        MAKES_PROMPTS: for a source of problems, whether it makes them by `make` and reads none.
    """

    GIVES: str
    COLUMNS: Columns = MappingProxyType({})
    UNUSED: Sequence[str] = ()
    HUB: Sequence[DataSource] = ()
    MAKES_PROMPTS: bool = False

    @default
    def row(self, fields: Fields) -> Row:
        """The row of one record.

        Raises:
            RowError: the record gives none.
        """
        raise NotImplementedError

    @default
    def item(self, fields: Fields) -> Item:
        """The problem of one record, without an id, as the benchmark of the source's name scores it.

        Raises:
            RowError: the record gives none.
        """
        raise NotImplementedError

    @default
    def make(self, num_prompts: int) -> list[Record]:
        """The first `num_prompts` prompts: `id`, `messages`, and the `item` that the benchmark scores against."""
        raise NotImplementedError


def _reader(source: Source) -> list[str]:
    """The function that a source must have, by what it gives."""
    if source.GIVES != "problems":
        return ["row"]
    return ["make"] if source.MAKES_PROMPTS else ["item"]


SOURCES = Kind("source", "data.sources", Source, _reader)


def load_preferences(name: str) -> Source:
    """A source whose records give rows.

    Raises:
        ValueError: the source gives problems to sample from, or doesn't say what it gives.
    """
    source = load(SOURCES, name)
    if source.GIVES not in KINDS:
        raise ValueError(
            f"data/sources/{name}.py must say what it GIVES: {', '.join(KINDS)}, got {source.GIVES!r}; correct its `GIVES`"
        )
    if source.GIVES == "problems":
        raise ValueError(
            f"data.source must give preferences, got {name}, which gives prompts to sample from; put it under sample"
        )
    return source
