"""Does the training data hold a benchmark's items? Exact matches and shared word n-grams, each with the row that it stands in.

Texts are compared by their words alone, whatever their case and in whichever of Unicode's forms they are written. An item is matched
exactly where all words of one of its texts stand in a row one after another; it overlaps where a row shares one of its 13-grams, the
length that GPT-3's authors used (appendix C of https://arxiv.org/abs/2005.14165).

Scripts that are written without blanks between words are compared by characters, each for a part of a word: half of one in Chinese and
Japanese, a quarter in Thai, Lao, Khmer and Burmese, which is about what words have there. An n-gram is 13 words long either way.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bnf.data.groups import DEV, TEXTS_FILE
from bnf.data.marked import context_of
from bnf.plugins import load
from data.scripts import HALF_WORDS, QUARTER_WORDS
from data.scripts import UNDIVIDED as _UNDIVIDED
from evaluation.benchmarks import BENCHMARKS
from evaluation.records import Record, write_whole
from evaluation.types import Item, Progress

NGRAM_WORDS = 13
# Texts with fewer words that hold a letter (a choice, a list of numbers) are found in anything.
_FEWEST_WORDS = 6

# Vowel signs and accents belong to their word and are no letters: of Hindi every second sign.
_MARKS = "".join(
    mark
    for mark in map(chr, range(0x300, 0x20000))
    if unicodedata.category(mark).startswith("M") and not _UNDIVIDED.match(mark)
)
_LETTERS = rf"[^\W_{HALF_WORDS}{QUARTER_WORDS}]"
_MARK = re.compile(f"[{_MARKS}]")
_WORD = re.compile(r"[^\W_]+")
_WORD_OR_CHARACTER = re.compile(rf"[{HALF_WORDS}{QUARTER_WORDS}]|{_LETTERS}+(?:[{_MARKS}]+{_LETTERS}*)*")
_HALF = re.compile(f"[{HALF_WORDS}]")
# Soft hyphens, joiners, marks of direction and the like: nobody sees them.
_UNSEEN = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]")
# Lengths are counted in quarters of a word.
_WORD_LENGTH, _NGRAM_LENGTH, _FEWEST_LENGTH = 4, 4 * NGRAM_WORDS, 4 * _FEWEST_WORDS


def check_contamination(
    groups_dirs: Sequence[Path], benchmark: str, source: str | None, output_dir: Path, *, progress: Progress
) -> Record:
    """Looks for every item of a benchmark in prepared groups of all folders, their dev sets among them.

    Writes contamination.jsonl, a line per (item, group) that match, and contamination.json, the counts, and gives the latter.

    Raises:
        FileNotFoundError, ValueError: where the benchmark's items can't be loaded.
    """
    items = load(BENCHMARKS, benchmark).load(source, None)
    index = _Index(items)
    found: list[Record] = []
    files = [folder / TEXTS_FILE for one in groups_dirs for folder in (one, one / DEV) if (folder / TEXTS_FILE).is_file()]
    total, done = sum(file.stat().st_size for file in files), 0
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines):
                done += len(line)
                found += index.matches(json.loads(line))
                if number % 256 == 0:
                    progress(done, total, f"{len(found)} matches")
    write_whole(output_dir / "contamination.jsonl", found)
    exact = {match["item"] for match in found if match["match"] == "exact"}
    overlapping = {match["item"] for match in found} - exact
    summary = {
        "benchmark": benchmark,
        "num_items": len(items),
        "num_items_compared": index.num_items,
        "num_items_too_short": len(items) - index.num_items,
        "num_exact": len(exact),
        "num_overlapping": len(overlapping),
        "num_groups": len({match["group"] for match in found}),
        "ngram_words": NGRAM_WORDS,
    }
    write_whole(output_dir / "contamination.json", [summary])
    progress(total, total, f"{len(found)} matches")
    return summary


class _Index:
    """The n-grams of a benchmark's items, and the items that each stands in."""

    def __init__(self, items: list[Item]) -> None:
        self._grams: dict[tuple[str, ...], set[str]] = {}
        # A text that is shorter than an n-gram is looked for whole: its beginning → its words → items.
        self._short: dict[tuple[str, ...], dict[tuple[str, ...], set[str]]] = {}
        self._texts: dict[str, list[str]] = {}
        for item in items:
            for words, lengths in map(_words, _texts(item)):
                if sum(length for word, length in zip(words, lengths, strict=True) if not word.isdigit()) < _FEWEST_LENGTH:
                    continue
                self._texts.setdefault(item["id"], []).append(_joined(words))
                if sum(lengths) < _NGRAM_LENGTH:
                    _, beginning = next(_grams(words, lengths, _FEWEST_LENGTH))
                    self._short.setdefault(beginning, {}).setdefault(tuple(words), set()).add(item["id"])
                for _, gram in _grams(words, lengths, _NGRAM_LENGTH):
                    self._grams.setdefault(gram, set()).add(item["id"])

    @property
    def num_items(self) -> int:
        """Items with a text that is long enough to be compared."""
        return len(self._texts)

    def matches(self, group: Record) -> Iterator[Record]:
        """One record per item that a group's prompt or completions match."""
        seen: dict[str, Record] = {}
        prompt = [*({**message, "role": None} for message in group["messages"]), context_of(group)]
        parts = [("prompt", text) for text in _texts(prompt)]
        parts += [("completion", text) for one in group["completions"] for text in _said(one["text"])]
        for part, text in parts:
            words, lengths = _words(text)
            joined = ""
            for gram, items in self._found(words, lengths):
                joined = joined or _joined(words)
                for item in sorted(items):
                    exact = any(whole in joined for whole in self._texts[item])
                    if item not in seen or (exact and seen[item]["match"] != "exact"):
                        match = "exact" if exact else "ngram"
                        seen[item] = {
                            "item": item,
                            "group": group["id"],
                            "match": match,
                            "in": part,
                            "words": " ".join(gram),
                        }
        yield from (seen[item] for item in sorted(seen))

    def _found(self, words: list[str], lengths: list[int]) -> Iterator[tuple[tuple[str, ...], set[str]]]:
        """The known n-grams and short texts among these words, each with its items."""
        for _, gram in _grams(words, lengths, _NGRAM_LENGTH):
            if gram in self._grams:
                yield gram, self._grams[gram]
        if self._short:
            for start, beginning in _grams(words, lengths, _FEWEST_LENGTH):
                for whole, items in self._short.get(beginning, {}).items():
                    if tuple(words[start : start + len(whole)]) == whole:
                        yield whole, items


def _texts(value: Any, key: str = "") -> Iterator[str]:
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
    """A completion's texts. A message that holds more than text stands in groups.jsonl as JSON, whose escapes would be read as letters."""
    if completion.startswith('{"role": "assistant", '):
        try:
            message = json.loads(completion)
        except ValueError:
            pass  # a text that only begins so
        else:
            yield from _texts({**message, "role": None})
            return
    yield completion


def _words(text: str) -> tuple[list[str], list[int]]:
    """The text's words without case, of scripts without blanks the characters, and what each counts for, in quarters of a word."""
    text = text.lower() if text.isascii() else _plain(text)
    divided = text.isascii() or not _UNDIVIDED.search(text)
    plain = text.isascii() or (divided and not _MARK.search(text))
    words = (_WORD if plain else _WORD_OR_CHARACTER).findall(text)
    if divided:
        return words, [_WORD_LENGTH] * len(words)
    return words, [(2 if _HALF.match(word) else 1) if _UNDIVIDED.match(word) else _WORD_LENGTH for word in words]


def _plain(text: str) -> str:
    """The text in one of the forms in which Unicode may write it: full-width letters, ligatures and parted accents are as others."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold())


def _joined(words: list[str]) -> str:
    return f" {' '.join(words)} "


def _grams(words: list[str], lengths: list[int], size: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(start, words) of the shortest run from each word on that is at least `size` long."""
    if sum(lengths) == _WORD_LENGTH * len(words):
        # Whole words alone, as nearly everywhere: all runs have the same number of them.
        yield from enumerate(zip(*(words[start:] for start in range(size // _WORD_LENGTH)), strict=False))
        return
    end = length = 0
    for start in range(len(words)):
        while length < size:
            if end == len(words):
                return
            length += lengths[end]
            end += 1
        yield start, tuple(words[start:end])
        length -= lengths[start]
