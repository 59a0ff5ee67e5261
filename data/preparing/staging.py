"""Staging: a SQLite file that holds rows between reading and writing, so that memory doesn't grow with the data.

A row belongs to a prompt and has candidates, which are completions. Label resolution makes preferences of them: a preference is a pair
of candidates, or one candidate with its label.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.preparing.render import named_place
from data.preparing.staged import StagedPrompt, StagedRow, rank

_SCHEMA = """
create table prompts (
    no integer primary key, digest blob unique, source integer, id text, messages text, context text, ids blob, language text,
    mixture_rank blob, dev_rank blob, live integer default 0, dev integer default 0);
create table rows (
    no integer primary key, source integer, file text, line integer, id text, prompt integer, tie integer, listed integer,
    outcome text, detail text, more text default '{}', content blob);
create index rows_content on rows (content);
create index rows_id on rows (id);
create index rows_prompt on rows (prompt);
create table candidates (
    no integer primary key, source integer, row integer, prompt integer, position integer, text text, ids blob, label integer,
    score real, origin text, outcome text);
create index candidates_prompt on candidates (prompt);
create table preferences (
    no integer primary key, prompt integer, first integer, second integer, label integer, row integer,
    mask_rank blob, flip_rank blob, contradict_rank blob, keeps text default 'both', flipped integer default 0,
    contradicted integer default 0);
create index preferences_prompt on preferences (prompt);
"""

# The seeded choices that preferences have a place in.
_NOISE = ("mask", "flip", "contradict")


@dataclass
class CandidateEntry:
    """A candidate in staging; where it is left out, `outcome` says why."""

    no: int
    source: int
    row: int
    position: int
    text: str
    ids: array[int]
    label: int | None
    score: float | None
    origin: str
    outcome: str


@dataclass(frozen=True)
class Preference:
    """What the data say of a prompt's completions: a pair, of which `first` is better than `second`, or a labelled completion.

    The place of a preference in every seeded choice follows from its `name`.
    """

    first: int
    second: int | None
    label: int
    row: int
    name: str


@dataclass(frozen=True)
class SelectedPreference:
    """A preference after every choice: its sides as (candidate, label).

    Attributes:
        row: the row that it comes from.
        sides: those that are kept; `masked` are those that a mask hides.
        signs: what the labels are multiplied by: −1 where noise flips the preference, both signs where noise contradicts it.
    """

    row: int
    sides: list[tuple[int, int]]
    masked: list[tuple[int, int]]
    signs: tuple[int, ...]


def dev_threshold(dev_fraction: float) -> bytes:
    """The `dev_rank` below which that share of all prompts lies, on average."""
    return int(dev_fraction * 2**64).to_bytes(8, "big")


class StagedRows:
    """The rows of a preparation in their file, which another process has written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._base = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)

    def run(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self._base.execute(statement, values)

    def number(self, statement: str, *values: object) -> int:
        """The one number that a query gives."""
        return int(self.run(statement, *values).fetchone()[0] or 0)

    def candidates(self, prompt: int) -> list[CandidateEntry]:
        """A prompt's candidates, in the order in which they came."""
        found = self.run(
            "select no, source, row, position, text, ids, label, score, origin, outcome from candidates where prompt = ? order by no",
            prompt,
        )
        return [
            CandidateEntry(no, source, row, position, text, _ints(ids), label, score, origin, outcome)
            for no, source, row, position, text, ids, label, score, origin, outcome in found
        ]

    def selected(self, prompt: int) -> list[SelectedPreference]:
        """A prompt's preferences as the choices leave them, in their order."""
        found = self.run(
            "select row, first, second, label, keeps, flipped, contradicted from preferences where prompt = ? order by no",
            prompt,
        )
        selected = []
        for row, first, second, label, keeps, flipped, contradicted in found:
            sides = [(first, label), *([(second, -1)] if second is not None else [])]
            masked = {"both": sides[:0], "chosen": sides[1:], "rejected": sides[:1]}[keeps]
            sides = [side for side in sides if side not in masked]
            sign = -1 if flipped else 1
            selected.append(SelectedPreference(row, sides, masked, (sign, -sign) if contradicted else (sign,)))
        return selected


class Staging(StagedRows):
    """The rows of one preparation, in a file in its output folder that is deleted when the block ends."""

    def __init__(self, output_dir: Path, seed: int) -> None:
        output_dir.mkdir(parents=True, exist_ok=True)
        self.path, self._seed = output_dir / "staging.sqlite", seed
        self.path.unlink(missing_ok=True)
        self._base = sqlite3.connect(self.path, isolation_level=None)
        self.run("pragma journal_mode = off")
        self.run("pragma synchronous = off")
        self.run("pragma cache_size = -65536")  # KiB
        self.run("begin")
        for statement in _SCHEMA.split(";"):
            self.run(statement)

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        self.path.unlink()

    def share(self) -> None:
        """From here on other processes can read what is in the file; nothing is added any more."""
        self.run("commit")

    def is_put_aside(self, digest: bytes, dev_fraction: float) -> bool:
        """Whether a prompt belongs to the dev set of on-policy rounds, where the prompt's digest and the seed alone decide."""
        return rank(self._seed, "dev", digest.hex()) < dev_threshold(dev_fraction)

    def add(self, row: StagedRow) -> None:
        """Adds a row; one that repeats another, or has the id of another prompt's row, gets the outcome that says so."""
        if row.prompt is not None:
            row = self._compared(row, row.prompt)
        prompt = self._prompt(row, row.prompt) if row.prompt is not None and not row.outcome else None
        cursor = self.run(
            "insert into rows (source, file, line, id, prompt, tie, listed, outcome, detail, more, content) values (?,?,?,?,?,?,?,?,?,?,?)",
            *(row.source, row.file, row.line, row.id, prompt, row.tie, row.listed, row.outcome, row.detail),
            *("{}" if row.outcome else row.more, row.content),
        )
        if prompt is not None:
            self._base.executemany(
                "insert into candidates (source, row, prompt, position, text, ids, label, score, origin, outcome) "
                "values (?,?,?,?,?,?,?,?,?,?)",
                [(row.source, cursor.lastrowid, prompt, position, *one) for position, one in enumerate(row.candidates)],
            )

    def _compared(self, row: StagedRow, prompt: StagedPrompt) -> StagedRow:
        """The row, as a duplicate where a row before has the same content, and with an id that no other prompt has."""
        same = self.run("select line, file, source from rows where content = ? limit 1", row.content).fetchone()
        if same:
            return row._replace(outcome="duplicate", detail=f"the same row as on {_other_place(row, *same)}")
        id, fault = self._free_id(row, prompt.digest)
        return row._replace(id=id, outcome="bad_schema" if fault else "", detail=fault)

    def _free_id(self, row: StagedRow, digest: bytes) -> tuple[str, str]:
        """(the row's id, what is wrong with it): two prompts never have the same id.

        Where a row of another prompt has the id already, this row gets another: its file's name before the id where that row lies in
        another file (each file may count its rows from 0), or its own number behind it where one of the two ids is its row's line (a row
        without an id goes by its line). Otherwise one file gives two prompts the same id, which is a fault.
        """
        id = row.id
        while True:
            namesake = self.run(
                "select line, file, rows.source from rows join prompts on prompts.no = prompt where rows.id = ? and digest != ? limit 1",
                *(id, digest),
            ).fetchone()
            if namesake is None:
                return id, ""
            line, file, source = namesake
            if file != row.file and id == row.id:
                id = f"{row.file}#{id}"
            elif _is_place(row.id, row.line, row.file, row.source) or _is_place(id, line, file, source):
                return f"{row.id}#{self.number('select max(no) from rows') + 1}", ""
            else:
                return row.id, f"the same id as on {_other_place(row, line, file, source)}, of another prompt"

    def _prompt(self, row: StagedRow, prompt: StagedPrompt) -> int:
        found = self.run("select no from prompts where digest = ?", prompt.digest).fetchone()
        if found:
            return int(found[0])
        cursor = self.run(
            "insert into prompts (source, id, digest, messages, context, ids, language, mixture_rank, dev_rank) values (?,?,?,?,?,?,?,?,?)",
            *(row.source, row.id, *prompt),
        )
        return int(cursor.lastrowid or 0)

    def prompts(self) -> Iterator[int]:
        """The prompts' numbers, in the order in which they came."""
        last = self.number("select max(no) from prompts")
        yield from range(1, last + 1)

    def add_preferences(self, prompt: int, preferences: Sequence[Preference]) -> None:
        self._base.executemany(
            "insert into preferences (prompt, first, second, label, row, mask_rank, flip_rank, contradict_rank) values (?,?,?,?,?,?,?,?)",
            [
                (prompt, one.first, one.second, one.label, one.row, *(rank(self._seed, choice, one.name) for choice in _NOISE))
                for one in preferences
            ],
        )

    def set_live(self) -> None:
        """Marks the prompts that have a preference."""
        self.run("update prompts set live = 1 where no in (select prompt from preferences)")

    def set_row(self, row: int, outcome: str, detail: str = "") -> None:
        self.run("update rows set outcome = ?, detail = ? where no = ?", outcome, detail, row)

    def set_candidate(self, candidate: int, outcome: str) -> None:
        self.run("update candidates set outcome = ? where no = ?", outcome, candidate)

    def set_row_outcomes(self) -> None:
        """Gives every row without an outcome its own (unsampled, dev, masked or kept), and marks the rows that noise changed."""
        for outcome, which in (("unsampled", "live = 2"), ("dev", "live = 1 and dev = 1")):
            self.run(
                f"update rows set outcome = ? where outcome = '' and prompt in (select no from prompts where {which})", outcome
            )
        # Read as they are updated: the rows aren't among what is read.
        for row, keeps in self.run(
            "select preferences.row, keeps from preferences join candidates on candidates.no = second "
            "where keeps != 'both' and preferences.row = candidates.row"
        ):
            self.run(
                "update rows set outcome = 'masked', detail = '', more = json_set(more, '$.side', ?) where no = ?", keeps, row
            )
        self._mask_rows_without_a_kept_side()
        for mark in ("flipped", "contradicted"):
            self.run(
                f"update rows set more = json_set(more, '$.{mark}', json('true')) where no in (select row from preferences where {mark})"
            )
        self.run("update rows set outcome = 'kept' where outcome = ''")

    def _mask_rows_without_a_kept_side(self) -> None:
        """Marks rows as masked where no preference keeps one of their completions: two rows may have had a side each of a pair."""
        for (prompt,) in self.run(
            "select distinct preferences.prompt from preferences join candidates on candidates.no = second "
            "where keeps != 'both' and preferences.row != candidates.row order by 1"
        ):
            kept = {no for one in self.selected(prompt) for no, _ in one.sides}
            candidates = self.candidates(prompt)
            alive = {one.row for one in candidates if one.no in kept}
            for row in {one.row for one in candidates} - alive:
                self.run("update rows set outcome = 'masked' where no = ? and outcome = ''", row)


def _is_place(id: str, line: int, file: str, source: int) -> bool:
    """Whether the id is the place of a row that has none: its line, after its file and its source where there are several."""
    place = f"{file}:{line}" if file else str(line)
    return id in (place, f"{source}:{place}")


def _other_place(row: StagedRow, line: int, file: str, source: int) -> str:
    """Where another row lies, for messages about this row; sources count from 0, as in ids."""
    return named_place(line, file, str(source) if source != row.source else "")


def _ints(blob: bytes) -> array[int]:
    numbers = array("i")
    numbers.frombytes(blob)
    return numbers
