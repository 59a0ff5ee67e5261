"""The words of a text, for comparing texts: without case, and the same in every form that Unicode has for them.

Scripts without blanks between words are compared by characters, each of which counts for a part of a word: half of one in Chinese and
Japanese, a quarter in Thai, Lao, Khmer and Burmese, which is about how long words are there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from data.scripts import HALF_WORDS, QUARTER_WORDS, UNDIVIDED

# Lengths are counted in quarters of a word.
WORD_LENGTH = 4
# Vowel signs and accents belong to their word and are no letters; in Hindi every second sign is one.
_MARKS = "".join(
    mark for mark in map(chr, range(0x300, 0x20000)) if unicodedata.category(mark).startswith("M") and not UNDIVIDED.match(mark)
)
_LETTERS = rf"[^\W_{HALF_WORDS}{QUARTER_WORDS}]"
_MARK = re.compile(f"[{_MARKS}]")
_WORD = re.compile(r"[^\W_]+")
_WORD_OR_CHARACTER = re.compile(rf"[{HALF_WORDS}{QUARTER_WORDS}]|{_LETTERS}+(?:[{_MARKS}]+{_LETTERS}*)*")
HALF = re.compile(f"[{HALF_WORDS}]")
# Soft hyphens, joiners, marks of direction and other signs that nobody sees.
_UNSEEN = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]")


def words_of(text: str) -> tuple[list[str], list[int]]:
    """(the text's words, or characters where no blank divides words; the length of each in quarters of a word)."""
    text = text.lower() if text.isascii() else _plain(text)
    divided = text.isascii() or not UNDIVIDED.search(text)
    plain = text.isascii() or (divided and not _MARK.search(text))
    words = (_WORD if plain else _WORD_OR_CHARACTER).findall(text)
    if divided:
        return words, [WORD_LENGTH] * len(words)
    return words, [(2 if HALF.match(word) else 1) if UNDIVIDED.match(word) else WORD_LENGTH for word in words]


def _plain(text: str) -> str:
    """The text in one of Unicode's forms, without case: full-width letters, ligatures and parted accents make no difference."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold())


def ngrams(words: list[str], lengths: list[int], size: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(start, words) of the shortest run from each word on that has the length `size` at least, in quarters of a word."""
    if sum(lengths) == WORD_LENGTH * len(words):
        # Whole words alone, as in nearly all texts: each run has the same number of them.
        yield from enumerate(zip(*(words[start:] for start in range(size // WORD_LENGTH)), strict=False))
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
