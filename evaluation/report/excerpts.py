"""The beginnings and ends of texts that came from elsewhere, short enough for a page."""

from __future__ import annotations

import json
from dataclasses import dataclass

from evaluation.formats import cut

_FIELD_CHARACTERS, _FIELD_LINES = 600, 12
# The most lines of a text's beginning, and of its end: a completion has its answer there.
_LINES = (28, 13)
# The part of an excerpt's characters that its end has.
_END = 1 / 3
# Where there are many texts, all are cut at the first of these for which the page has room.
LIMITS = (1500, 1000, 700, 500, 350, 250, 150)
_GIST_CHARACTERS = 90


@dataclass(frozen=True)
class Excerpt:
    """A text's beginning, how many characters are missing after it, and the text's end, where that isn't missing too.

    A whole text that `keeps_end` is shortened in its middle.
    """

    text: str
    num_left_out: int
    end: str = ""
    keeps_end: bool = False

    @property
    def num_characters(self) -> int:
        return len(self.text) + len(self.end)

    def shortened(self, most_characters: int) -> Excerpt:
        """The same, of at most so many characters."""
        if self.num_characters <= most_characters:
            return self
        end = self.text if self.keeps_end and not self.num_left_out else self.end
        of_end = min(len(end), max(round(_END * most_characters), most_characters - len(self.text)))
        text, end = self.text[: most_characters - of_end], end[len(end) - of_end :]
        missing = self.num_characters - len(text) - len(end)
        return Excerpt(text, self.num_left_out + missing, end, self.keeps_end)


def field_text(value: object) -> str:
    """A field of an item, whole: a question, an answer, choices."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_field(value: object) -> Excerpt:
    """A field of an item."""
    return Excerpt(*cut(field_text(value), _FIELD_CHARACTERS, _FIELD_LINES))


def as_text(text: str) -> Excerpt:
    """What a model wrote, or was given: whole, or its beginning and its end."""
    most, (first, last) = LIMITS[0], _LINES
    # Short texts are shown whole.
    if len(text) <= most and text.count("\n") <= first + last - 2:
        return Excerpt(text, 0, keeps_end=True)
    of_end = round(_END * most)
    beginning, _ = cut(text[: most - of_end], most, first)
    end = "\n".join(text[max(len(beginning), len(text) - of_end) :].split("\n")[-last:])
    return Excerpt(beginning, len(text) - len(beginning) - len(end), end, keeps_end=True)


def gist(text: str, most_characters: int = _GIST_CHARACTERS) -> str:
    """A text's beginning in one line, cut between words where it has some, with a `…` for the rest."""
    line = " ".join(text[: 3 * most_characters].split())
    if len(line) <= most_characters and len(text) <= 3 * most_characters:
        return line
    head = line[: most_characters - 1]
    whole, space, _ = head.rpartition(" ")
    return f"{whole if space and len(whole) > most_characters // 2 else head}…"
