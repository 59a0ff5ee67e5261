"""Does the training data hold a benchmark's items? Exact matches and shared word n-grams, each with the row that it stands in.

Texts are compared by their words alone, in lower case. An item is matched exactly where all words of one of its texts stand in a row
one after another; it overlaps where a row shares one of its 13-grams, the length that GPT-3's authors used (appendix C of
https://arxiv.org/abs/2005.14165).
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bnf.groups import DEV, TEXTS_FILE
from evaluation._records import Record, write_whole
from evaluation._types import Item, Progress

NGRAM_WORDS = 13
# Texts with fewer words that hold a letter (a choice, a list of numbers) are found in anything.
_FEWEST_WORDS = 6

_WORD = re.compile(r"\w+")


def check_contamination(
    groups_dirs: Sequence[Path], benchmark: str, source: str | None, output_dir: Path, *, progress: Progress
) -> Record:
    """Looks for every item of a benchmark in prepared groups of all folders, their dev sets among them.

    Writes contamination.jsonl, a line per (item, group) that match, and contamination.json, the counts, and gives the latter.

    Raises:
        FileNotFoundError, ValueError: where the benchmark's items can't be loaded.
    """
    items = importlib.import_module(f"evaluation.benchmarks.{benchmark}").load(source, None)
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
        # A text that is no longer than an n-gram is looked for whole: its length → its words → items.
        self._short: dict[int, dict[tuple[str, ...], set[str]]] = {}
        self._texts: dict[str, list[str]] = {}
        for item in items:
            for words in map(_words, _texts(item)):
                if sum(not word.isdigit() for word in words) < _FEWEST_WORDS:
                    continue
                self._texts.setdefault(item["id"], []).append(f" {' '.join(words)} ")
                grams = self._grams if len(words) >= NGRAM_WORDS else self._short.setdefault(len(words), {})
                for gram in _grams(words, min(NGRAM_WORDS, len(words))):
                    grams.setdefault(gram, set()).add(item["id"])

    @property
    def num_items(self) -> int:
        """Items with a text that is long enough to be compared."""
        return len(self._texts)

    def matches(self, group: Record) -> Iterator[Record]:
        """One record per item that a group's prompt or completions match."""
        seen: dict[str, Record] = {}
        parts = [("prompt", message["content"]) for message in group["messages"]]
        parts += [("completion", completion["text"]) for completion in group["completions"]]
        for part, text in parts:
            words = _words(text)
            for size, known in ((NGRAM_WORDS, self._grams), *self._short.items()):
                for gram in filter(known.__contains__, _grams(words, size)):
                    for item in sorted(known[gram]):
                        joined = f" {' '.join(words)} "
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


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: list[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)
