"""Foresees from the first rows of the sources, without a tokenizer, whether preparation will make pairs of them."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping, Sequence

from data.parse import Parser
from data.preparing.config import PrepareConfig
from data.preparing.label_resolution import RowEntry, resolve
from data.preparing.limit import limited
from data.preparing.render import prompt_digest
from data.preparing.staging import CandidateEntry
from data.reading.records import Bad, DataSource, Reader
from data.rows import Row


def gives_pairs(sources: Sequence[DataSource], config: PrepareConfig, most_rows: int) -> list[bool | None]:
    """For each source, whether `prepare` will put at least one of its completions into a pair.

    None where the first `most_rows` rows give no pair and there are more.

    Labels are resolved as in `prepare`, prompt by prompt over all sources, as a pair may take its sides from two sources.

    Raises:
        FileNotFoundError, ValueError: a source can't be read.
    """
    by_prompt: dict[bytes, list[RowEntry]] = {}
    paired: set[int] = set()
    untold: set[int] = set()
    numbers = itertools.count(1)
    for number, source in enumerate(sources):
        parse, rows = Parser(source), 0
        for rows, raw in enumerate(
            itertools.islice(limited(Reader(source), source, config.system_prompt), most_rows + 1), start=1
        ):
            id, row = parse(raw)
            if not isinstance(row, Bad):
                entry = _entry(row, id, number, raw.line, next(numbers))
                by_prompt.setdefault(prompt_digest(row.messages, row.context), []).append(entry)
            # Looking costs as much as all rows so far: it is done only when their number has doubled.
            if rows & (rows - 1) == 0:
                paired |= _paired(by_prompt, config)
                if number in paired:
                    break
        if rows > most_rows:
            untold.add(number)
    paired |= _paired(by_prompt, config)
    return [True if number in paired else None if number in untold else False for number in range(len(sources))]


def _paired(by_prompt: Mapping[bytes, Sequence[RowEntry]], config: PrepareConfig) -> set[int]:
    """The sources that have a completion in a pair."""
    found = set()
    for rows in by_prompt.values():
        source_of = {one.no: one.source for row in rows for one in row.candidates}
        for preference in resolve(rows, config).preferences:
            if preference.second is not None:
                found |= {source_of[preference.first], source_of[preference.second]}
    return found


def _entry(row: Row, id: str, source: int, line: int, no: int) -> RowEntry:
    candidates = [
        CandidateEntry(no * 1000 + place, source, no, place, one.text, array("i"), one.label, one.score, one.origin, "")
        for place, one in enumerate(row.candidates)
        if one.text.strip() and (one.label is not None or one.score is not None)
    ]
    return RowEntry(no, id, line, row.tie, len(candidates) > 1 and not row.is_pair and not row.tie, candidates)
