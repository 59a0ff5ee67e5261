"""What preparation will find, seen from the first rows of the sources, without a tokenizer: whether a source gives pairs."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping, Sequence

from data.parse import Parser, is_pair
from data.preparing.config import PrepareConfig
from data.preparing.label_resolution import RowEntry, settle
from data.preparing.render import prompt_digest
from data.preparing.staging import CandidateEntry
from data.reading.records import Bad, DataSource, Reader
from data.rows import Row


def gives_pairs(sources: Sequence[DataSource], config: PrepareConfig, most_rows: int) -> list[bool | None]:
    """For each source whether `prepare` makes a pair of a completion of its; None where its first `most_rows` rows don't tell.

    Rows are settled as `prepare` settles them, prompt by prompt and over all sources: two sources may have one side each.

    Raises:
        FileNotFoundError, ValueError: where a source can't be read.
    """
    by_prompt: dict[bytes, list[RowEntry]] = {}
    paired: set[int] = set()
    untold: set[int] = set()
    numbers = itertools.count(1)
    for number, source in enumerate(sources):
        parse, rows = Parser(source), 0
        for rows, raw in enumerate(itertools.islice(Reader(source), most_rows + 1), start=1):
            id, row = parse(raw)
            if not isinstance(row, Bad):
                entry = _entry(row, id, number, raw.line, next(numbers))
                by_prompt.setdefault(prompt_digest(row.messages, row.context), []).append(entry)
            # At the first rows, and then each time that their number has doubled.
            if rows & (rows - 1) == 0:
                paired |= _paired(by_prompt, config)
                if number in paired:
                    break
        if rows > most_rows:
            untold.add(number)
    paired |= _paired(by_prompt, config)
    return [True if number in paired else None if number in untold else False for number in range(len(sources))]


def _paired(by_prompt: Mapping[bytes, Sequence[RowEntry]], config: PrepareConfig) -> set[int]:
    """The sources of which a completion is in a pair."""
    found = set()
    for rows in by_prompt.values():
        source_of = {one.no: one.source for row in rows for one in row.candidates}
        for verdict in settle(rows, config).verdicts:
            if verdict.second is not None:
                found |= {source_of[verdict.first], source_of[verdict.second]}
    return found


def _entry(row: Row, id: str, source: int, line: int, no: int) -> RowEntry:
    candidates = [
        CandidateEntry(no * 1000 + place, source, no, place, one.text, array("i"), one.label, one.score, one.origin, "")
        for place, one in enumerate(row.candidates)
        if one.text.strip() and (one.label is not None or one.score is not None)
    ]
    return RowEntry(no, id, line, row.tie, len(candidates) > 1 and not is_pair(row) and not row.tie, candidates)
