"""The beginnings of texts that came from elsewhere, short enough for a page."""

from __future__ import annotations

import json
from dataclasses import dataclass

from evaluation.formats import cut

_FIELD_CHARACTERS, _FIELD_LINES, _TEXT_LINES = 600, 12, 40
# Where there are many texts, all are cut at the first of these for which the page has room.
LIMITS = (1500, 1000, 700, 500, 350, 250, 150)
_GIST_CHARACTERS = 90


@dataclass(frozen=True)
class Excerpt:
    """A text's beginning, and how many characters are missing after it."""

    text: str
    num_left_out: int

    def shortened(self, most_characters: int) -> Excerpt:
        """The same, of at most so many characters."""
        missing = max(len(self.text) - most_characters, 0)
        return Excerpt(self.text[:most_characters], self.num_left_out + missing) if missing else self


def field_text(value: object) -> str:
    """A field of an item, whole: a question, an answer, choices."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_field(value: object) -> Excerpt:
    """A field of an item."""
    return Excerpt(*cut(field_text(value), _FIELD_CHARACTERS, _FIELD_LINES))


def as_text(text: str) -> Excerpt:
    """What a model wrote, or was given."""
    return Excerpt(*cut(text, LIMITS[0], _TEXT_LINES))


def gist(text: str, most_characters: int = _GIST_CHARACTERS) -> str:
    """A text's beginning in one line, cut between words where it has some, with a `…` for the rest."""
    line = " ".join(text[: 3 * most_characters].split())
    if len(line) <= most_characters and len(text) <= 3 * most_characters:
        return line
    head = line[: most_characters - 1]
    whole, space, _ = head.rpartition(" ")
    return f"{whole if space and len(whole) > most_characters // 2 else head}…"
