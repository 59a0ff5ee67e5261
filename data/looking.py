"""Looks at preference data that nobody has described yet: its columns and rows, and which of the sources can read it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bnf.plugins import load, names
from data.parse import Parser
from data.preparing.render import prompt_digest
from data.reading.files import as_local, ending_of, list_files
from data.reading.records import Bad, DataSource, Raw, Reader
from data.rows import Row
from data.sources import SOURCES

# How many rows are read as every source would, and how many are counted.
_ROWS_READ = 200
_MOST_ROWS = 100_000
# It makes one side of its pairs by itself: nobody gets that without asking for it.
_MADE = ("near_identical",)
# What gives completions with what is said of them.
_PREFERENCES = ("pairs", "labels", "ratings")
# Of sources that read the same the first is proposed: the plain one, then those with a schema of their own. A common beginning is a guess.
_FIRST, _LAST = "pairs", "implicit_pairs"
# What data sets call the roles of the plain sources, beside the names that these know.
_ALIKE: Mapping[str, Sequence[str]] = {
    "prompt": (
        "question",
        "query",
        "instruction",
        "input",
        "user",
        "context",
        "conversations",
        "conversation",
        "messages",
        "history",
    ),
    "chosen": ("good", "better", "preferred", "accepted", "positive", "winner", "best"),
    "rejected": ("bad", "worse", "dispreferred", "refused", "negative", "loser", "worst"),
    "completion": ("answer", "reply", "output", "generation", "generated", "assistant"),
    "label": ("liked", "thumb", "thumbs_up", "feedback", "is_good", "preferred", "upvoted", "vote"),
    "completions": ("responses", "answers", "outputs", "generations", "candidates"),
    "ratings": ("scores", "rewards", "stars", "grades"),
    "rating": ("score", "reward", "stars", "grade"),
}
# The names of two completions often say that they are some: `good_answer`, `response_chosen`.
_OF_TWO = ("chosen", "rejected")
_COMPLETION = re.compile(r"_(?:answer|completion|output|reply|response)$|^(?:answer|completion|output|reply|response)_")
# One for each shape of a row: two completions, one with a label, several with ratings, one with a rating.
_PLAIN = ("pairs", "thumbs", "ratings", "helpsteer")


@dataclass(frozen=True)
class Reading:
    """How a source reads the data: so many of the first rows, which give so many prompts.

    Attributes:
        columns: the renamed columns that it needs for that, as `data.columns` has them.
        gives: what the source gives: pairs, labels or ratings.
        reason: why it can't read the first row that it can't read.
    """

    source: str
    gives: str
    columns: dict[str, str]
    num_rows: int
    num_prompts: int
    unread: tuple[str, ...]
    num_scores: int
    reason: str = ""


@dataclass(frozen=True)
class Seen:
    """What was seen of data.

    Attributes:
        kind: the format, in words.
        num_rows: how many rows there are; `more` says that there are more, which weren't counted.
        num_read: how many of them were read.
        columns: all columns of the rows that were read, in the order in which they appear.
        readings: of every source, the best first; those that read no row are left out.
        nearest: where no source reads a row, why the plain ones don't, that with the most of its columns first.
    """

    kind: str
    num_rows: int
    more: bool
    num_read: int
    columns: list[str]
    readings: list[Reading] = field(default_factory=list)
    nearest: list[Reading] = field(default_factory=list)


def look(path: str, split: str | None = None) -> Seen:
    """What the data at a local path or URL are, by their first rows.

    Raises:
        FileNotFoundError, ValueError: as `Reader`.
    """
    rows = iter(Reader(DataSource(_FIRST, path, split=split)))
    first = list(itertools.islice(rows, _ROWS_READ))
    rest = sum(1 for _ in itertools.islice(rows, _MOST_ROWS - len(first)))
    more = next(rows, None) is not None
    columns = list(dict.fromkeys(itertools.chain.from_iterable(_columns(raw) for raw in first)))
    found = [one for name in _preference_sources() for one in _readings(name, path, columns, first)]
    readings = sorted((one for one in found if one.num_rows), key=_place)
    # With a column renamed a source reads what another one reads as it is.
    readings = [one for one in readings if not one.columns or not any(not other.columns for other in readings)]
    # With columns renamed a source has a better reason.
    tried = {one.source: one for one in found if one.source in _PLAIN}
    nearest = [] if readings else sorted(tried.values(), key=lambda one: (-len(one.columns), _PLAIN.index(one.source)))
    return Seen(_kind(path, split), len(first) + rest, more, len(first), columns, readings, nearest)


def _place(one: Reading) -> tuple[object, ...]:
    """The place of a reading among others: more rows first, then fewer columns unread, then more scores."""
    return (-one.num_rows, len(one.unread), -one.num_scores, one.source == _LAST, one.source != _FIRST, one.source)


def _preference_sources() -> Iterator[str]:
    return (name for name in names(SOURCES) if load(SOURCES, name).GIVES in _PREFERENCES and name not in _MADE)


def _readings(name: str, path: str, columns: Sequence[str], rows: Sequence[Raw]) -> Iterator[Reading]:
    """The source's reading of the rows; where one of the plain sources reads none, with its columns renamed too."""
    plain = _reading(name, path, {}, rows)
    yield plain
    if not plain.num_rows and name in _PLAIN and (renamed := _renamed(name, columns)):
        yield _reading(name, path, renamed, rows)


def _renamed(name: str, columns: Sequence[str]) -> dict[str, str]:
    """The columns that stand for roles of a source of which the data have no column of that name."""
    by_name = {column.lower().replace("-", "_").replace(" ", "_"): column for column in columns}
    of_two = {_COMPLETION.sub("", name): column for name, column in by_name.items()} | by_name
    taken: dict[str, str] = {}
    for role, known in load(SOURCES, name).COLUMNS.items():
        if role in _ALIKE and not any(column in columns for column in known):
            called = of_two if role in _OF_TWO else by_name
            alike = (called[other] for other in (role, *_ALIKE[role]) if other in called)
            column = next((one for one in alike if one not in taken.values()), None)
            if column is not None:
                taken[role] = column
    return taken


def _reading(name: str, path: str, columns: dict[str, str], rows: Sequence[Raw]) -> Reading:
    parse, gives = Parser(DataSource(name, path, columns)), load(SOURCES, name).GIVES
    prompts, unread, reason, num_rows, num_scores = set[bytes](), dict[str, None](), "", 0, 0
    for raw in rows:
        _, row = parse(raw)
        if isinstance(row, Bad):
            reason = reason or f"line {raw.where}: {row.detail}"
            continue
        if useless := _useless(row):
            reason = reason or f"line {raw.where}: {useless}"
            continue
        num_rows += 1
        prompts.add(prompt_digest(row.messages, row.context))
        unread |= dict.fromkeys(row.unread)
        num_scores += sum(one.score is not None for one in row.candidates)
    return Reading(name, gives, columns, num_rows, len(prompts), tuple(unread), num_scores, reason)


def _useless(row: Row) -> str:
    """Why nothing can be learned from a row that can be read; empty where something can. Only texts count: no template is known."""
    texts = [one.text for one in row.candidates]
    if not any(map(str.strip, texts)):
        return "the row holds no completion"
    if not row.is_pair and not row.tie:
        return ""
    if not all(map(str.strip, texts)):
        return "chosen and rejected must both hold text"
    return "chosen and rejected are the same text" if len(set(texts)) == 1 else ""


def _columns(raw: Raw) -> list[str]:
    value = raw.parsed()
    return [] if isinstance(value, Bad) else [str(name) for name in value]


def _kind(path: str, split: str | None) -> str:
    """The format of the data's files in words."""
    words = {
        ".jsonl": "JSON Lines",
        ".ndjson": "JSON Lines",
        ".json": "JSON",
        ".csv": "CSV",
        ".parquet": "Parquet",
        ".arrow": "Arrow",
    }
    try:
        files = list_files(as_local(path), split)
    except ValueError:
        return "data"
    kinds = " and ".join(dict.fromkeys(words[ending_of(file.path)] for file in files))
    return kinds if len(files) == 1 else f"{len(files)} files of {kinds}"
