"""Staging: a SQLite file that holds rows between reading and writing, so that memory doesn't grow with the data.

A row belongs to a prompt and has candidates, which are completions. Label resolution makes preferences of them: a preference is a pair
of candidates, or one candidate with its label.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.preparing.render import RenderedRow, named_place, prompt_digest

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


class Staging:
    """The rows of one preparation, in a file in its output folder that is deleted when the block ends."""

    def __init__(self, output_dir: Path, seed: int) -> None:
        output_dir.mkdir(parents=True, exist_ok=True)
        self._path, self._seed = output_dir / "staging.sqlite", seed
        self._path.unlink(missing_ok=True)
        self._base = sqlite3.connect(self._path, isolation_level=None)
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
        self._path.unlink()

    def run(self, statement: str, *values: object) -> sqlite3.Cursor:
        return self._base.execute(statement, values)

    def number(self, statement: str, *values: object) -> int:
        """The one number that a query gives."""
        return int(self.run(statement, *values).fetchone()[0] or 0)

    def rank(self, choice: str, name: str) -> bytes:
        """The place of an item in the order of a seeded choice. It depends on the seed, the choice and the item's name alone, so that the
        items of a smaller share are among those of a larger one."""
        return hashlib.sha256(f"{self._seed}:{choice}:{name}".encode()).digest()[:8]

    def is_put_aside(self, digest: bytes, dev_fraction: float) -> bool:
        """Whether a prompt belongs to the dev set of on-policy rounds, where the prompt's digest and the seed alone decide."""
        return self.rank("dev", digest.hex()) < dev_threshold(dev_fraction)

    def add(self, row: RenderedRow) -> None:
        """Adds a row; one that repeats another, or has the id of another prompt's row, gets the outcome that says so."""
        outcome, detail, content, prompt, digest = row.outcome, row.detail, None, None, b""
        if not outcome:
            outcome, detail, content, digest = self._compared(row)
        if not outcome:
            id, detail = self._free_id(row, digest)
            outcome = "bad_schema" if detail else ""
            row = replace(row, id=id)
            prompt = self._prompt(row, digest) if not outcome else None
        marks = {"truncated": row.truncated, "changed": sum(one.changed for one in row.candidates)}
        more = json.dumps({} if outcome else {name: mark for name, mark in marks.items() if mark})
        cursor = self.run(
            "insert into rows (source, file, line, id, prompt, tie, listed, outcome, detail, more, content) values (?,?,?,?,?,?,?,?,?,?,?)",
            *(row.source, row.file, row.line, row.id, prompt, row.tie, row.listed, outcome, detail, more, content),
        )
        if outcome:
            return
        for position, one in enumerate(row.candidates):
            candidate = one.candidate
            self.run(
                "insert into candidates (source, row, prompt, position, text, ids, label, score, origin, outcome) "
                "values (?,?,?,?,?,?,?,?,?,?)",
                *(row.source, cursor.lastrowid, prompt, position, candidate.text, array("i", one.ids).tobytes()),
                *(candidate.label, candidate.score, candidate.origin, one.outcome),
            )

    def _compared(self, row: RenderedRow) -> tuple[str, str, bytes, bytes]:
        """(outcome, detail, the content's digest, the prompt's digest) of a row: a duplicate where a row before has the same content."""
        digest = prompt_digest(row.messages, row.context)
        said = [(one.candidate.text, one.candidate.label, one.candidate.score) for one in row.candidates]
        content = hashlib.sha256(digest + repr(said).encode()).digest()[:16]
        same = self.run("select line, file, source from rows where content = ? limit 1", content).fetchone()
        if same:
            return "duplicate", f"the same row as on {_other_place(row, *same)}", content, digest
        return "", "", content, digest

    def _free_id(self, row: RenderedRow, digest: bytes) -> tuple[str, str]:
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

    def _prompt(self, row: RenderedRow, digest: bytes) -> int:
        found = self.run("select no from prompts where digest = ?", digest).fetchone()
        if found:
            return int(found[0])
        cursor = self.run(
            "insert into prompts (digest, source, id, messages, context, ids, language, mixture_rank, dev_rank) values (?,?,?,?,?,?,?,?,?)",
            *(
                digest,
                row.source,
                row.id,
                json.dumps(row.messages, ensure_ascii=False),
                json.dumps(row.context, ensure_ascii=False),
            ),
            array("i", row.prompt_ids).tobytes(),
            *(row.language, self.rank("mixture", digest.hex()), self.rank("dev", digest.hex())),
        )
        return int(cursor.lastrowid or 0)

    def prompts(self) -> Iterator[int]:
        """The prompts' numbers, in the order in which they came."""
        last = self.number("select max(no) from prompts")
        yield from range(1, last + 1)

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

    def add_preferences(self, prompt: int, preferences: Sequence[Preference]) -> None:
        for one in preferences:
            ranks = [self.rank(choice, one.name) for choice in ("mask", "flip", "contradict")]
            self.run(
                "insert into preferences (prompt, first, second, label, row, mask_rank, flip_rank, contradict_rank) "
                "values (?,?,?,?,?,?,?,?)",
                *(prompt, one.first, one.second, one.label, one.row, *ranks),
            )
        if preferences:
            self.run("update prompts set live = 1 where no = ?", prompt)

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
        for row, second, keeps in self.run(
            "select preferences.row, candidates.row, keeps from preferences join candidates on candidates.no = second where keeps != 'both'"
        ).fetchall():
            if row == second:
                self.set_row(row, "masked")
                self.run("update rows set more = json_set(more, '$.side', ?) where no = ?", keeps, row)
        self._mask_rows_without_a_kept_side()
        for mark in ("flipped", "contradicted"):
            self.run(
                f"update rows set more = json_set(more, '$.{mark}', json('true')) where no in (select row from preferences where {mark})"
            )
        self.run("update rows set outcome = 'kept' where outcome = ''")

    def _mask_rows_without_a_kept_side(self) -> None:
        """Marks rows as masked where no preference keeps one of their completions: two rows may have had a side each of a pair."""
        for (prompt,) in self.run("select distinct prompt from preferences where keeps != 'both' order by 1").fetchall():
            kept = {no for one in self.selected(prompt) for no, _ in one.sides}
            candidates = self.candidates(prompt)
            alive = {one.row for one in candidates if one.no in kept}
            for row in {one.row for one in candidates} - alive:
                self.run("update rows set outcome = 'masked' where no = ? and outcome = ''", row)


def _is_place(id: str, line: int, file: str, source: int) -> bool:
    """Whether the id is the place of a row that has none: its line, after its file and its source where there are several."""
    place = f"{file}:{line}" if file else str(line)
    return id in (place, f"{source}:{place}")


def _other_place(row: RenderedRow, line: int, file: str, source: int) -> str:
    """Where another row lies, for messages about this row; sources count from 0, as in ids."""
    return named_place(line, file, str(source) if source != row.source else "")


def _ints(blob: bytes) -> array[int]:
    numbers = array("i")
    numbers.frombytes(blob)
    return numbers
