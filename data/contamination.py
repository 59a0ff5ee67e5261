"""Does the training data hold a benchmark's items? Exact matches and shared word n-grams, each with the row that it stands in.

An item is matched exactly where all words of one of its texts stand in a row one after another. It overlaps where a row shares one of
its 13-grams, the length that GPT-3's authors used (appendix C of https://arxiv.org/abs/2005.14165).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bnf.data.groups import DEV, TEXTS_FILE
from bnf.data.marked import context_of
from bnf.plugins import load
from data.words import WORD_LENGTH, ngrams, words_of
from evaluation.benchmarks import BENCHMARKS
from evaluation.records import Record, write_whole
from evaluation.types import Item, Progress

NGRAM_WORDS = 13
# Shorter texts (a choice, a list of numbers) occur anywhere by chance. Words that are numbers don't count.
_FEWEST_WORDS = 6

# What only a checker reads of an IFEval item, such as a phrase to end with: any row may hold that.
_FOR_CHECKERS = ("instructions", "arguments")

# In quarters of a word, as data/words.py counts.
_NGRAM_LENGTH, _FEWEST_LENGTH = WORD_LENGTH * NGRAM_WORDS, WORD_LENGTH * _FEWEST_WORDS


@dataclass(frozen=True)
class Match:
    """An item that a group's texts match: `kind` is "exact" or "ngram", `where` "prompt" or "completion"."""

    item: str
    group: str
    kind: str
    where: str
    words: str

    def to_json(self) -> Record:
        """As a line of contamination.jsonl."""
        return {"item": self.item, "group": self.group, "match": self.kind, "in": self.where, "words": self.words}


@dataclass(frozen=True)
class Contamination:
    """How many of a benchmark's items the data hold: contamination.json.

    Attributes:
        num_items_too_short: items without a text that is long enough to be compared.
        num_overlapping: items that share an n-gram with a group and are matched exactly by none.
        num_groups: groups that match an item.
    """

    benchmark: str
    num_items: int
    num_items_compared: int
    num_items_too_short: int
    num_exact: int
    num_overlapping: int
    num_groups: int
    ngram_words: int

    def to_json(self) -> Record:
        return asdict(self)


def check_contamination(
    groups_dirs: Sequence[Path], benchmark: str, source: str | None, output_dir: Path, *, progress: Progress
) -> Contamination:
    """Looks for every item of a benchmark in the groups of several folders and in their dev sets.

    Writes contamination.jsonl, a line for each item and group that match, and contamination.json, the counts.

    Raises:
        FileNotFoundError, ValueError: the benchmark's items can't be loaded.
    """
    items = load(BENCHMARKS, benchmark).load(source, None)
    index = ItemIndex(items)
    found: list[Match] = []
    files = [folder / TEXTS_FILE for one in groups_dirs for folder in (one, one / DEV) if (folder / TEXTS_FILE).is_file()]
    total, done = sum(file.stat().st_size for file in files), 0
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines):
                done += len(line)
                found += index.matches(json.loads(line))
                if number % 256 == 0:
                    progress(done, total, f"bytes, {len(found)} matches")
    write_whole(output_dir / "contamination.jsonl", (match.to_json() for match in found))
    exact = {match.item for match in found if match.kind == "exact"}
    overlapping = {match.item for match in found} - exact
    counts = Contamination(
        benchmark=benchmark,
        num_items=len(items),
        num_items_compared=index.num_items,
        num_items_too_short=len(items) - index.num_items,
        num_exact=len(exact),
        num_overlapping=len(overlapping),
        num_groups=len({match.group for match in found}),
        ngram_words=NGRAM_WORDS,
    )
    write_whole(output_dir / "contamination.json", [counts.to_json()])
    progress(total, total, f"bytes, {len(found)} matches")
    return counts


class ItemIndex:
    """The n-grams of a benchmark's items, and the items that each stands in."""

    def __init__(self, items: list[Item]) -> None:
        self._grams: dict[tuple[str, ...], set[str]] = {}
        # Texts shorter than an n-gram, which are looked for whole: first words → all words → items.
        self._short: dict[tuple[str, ...], dict[tuple[str, ...], set[str]]] = {}
        self._texts: dict[str, list[str]] = {}
        for item in items:
            asked = {name: value for name, value in item.items() if name not in _FOR_CHECKERS}
            for words, lengths in map(words_of, _texts(asked)):
                if sum(length for word, length in zip(words, lengths, strict=True) if not word.isdigit()) < _FEWEST_LENGTH:
                    continue
                self._texts.setdefault(item["id"], []).append(_joined(words))
                if sum(lengths) < _NGRAM_LENGTH:
                    _, beginning = next(ngrams(words, lengths, _FEWEST_LENGTH))
                    self._short.setdefault(beginning, {}).setdefault(tuple(words), set()).add(item["id"])
                for _, gram in ngrams(words, lengths, _NGRAM_LENGTH):
                    self._grams.setdefault(gram, set()).add(item["id"])

    @property
    def num_items(self) -> int:
        """Items with a text that is long enough to be compared."""
        return len(self._texts)

    def matches(self, group: Record) -> Iterator[Match]:
        """One match for each item that occurs in a group's prompt or completions."""
        seen: dict[str, Match] = {}
        prompt = [*({**message, "role": None} for message in group["messages"]), context_of(group)]
        parts = [("prompt", text) for text in _texts(prompt)]
        parts += [("completion", text) for one in group["completions"] for text in _said(one["text"])]
        for part, text in parts:
            words, lengths = words_of(text)
            joined = ""
            for gram, items in self._found(words, lengths):
                joined = joined or _joined(words)
                for item in sorted(items):
                    exact = any(whole in joined for whole in self._texts[item])
                    if item not in seen or (exact and seen[item].kind != "exact"):
                        seen[item] = Match(item, group["id"], "exact" if exact else "ngram", part, " ".join(gram))
        yield from (seen[item] for item in sorted(seen))

    def _found(self, words: list[str], lengths: list[int]) -> Iterator[tuple[tuple[str, ...], set[str]]]:
        """The known n-grams and short texts among these words, each with its items."""
        for _, gram in ngrams(words, lengths, _NGRAM_LENGTH):
            if gram in self._grams:
                yield gram, self._grams[gram]
        if self._short:
            for start, beginning in ngrams(words, lengths, _FEWEST_LENGTH):
                for whole, items in self._short.get(beginning, {}).items():
                    if tuple(words[start : start + len(whole)]) == whole:
                        yield whole, items


def _texts(value: object, key: str = "") -> Iterator[str]:
    """All texts in an item but its id."""
    if isinstance(value, str) and key != "id":
        yield value
    elif isinstance(value, dict):
        for name, inside in value.items():
            yield from _texts(inside, name)
    elif isinstance(value, list):
        for inside in value:
            yield from _texts(inside)


def _said(completion: str) -> Iterator[str]:
    """A completion's texts. groups.jsonl holds a message that is more than text as JSON, whose escapes would be read as letters."""
    if completion.startswith('{"role": "assistant", '):
        try:
            message = json.loads(completion)
        except ValueError:
            pass  # a text that only begins so
        else:
            yield from _texts({**message, "role": None})
            return
    yield completion


def _joined(words: list[str]) -> str:
    return f" {' '.join(words)} "
