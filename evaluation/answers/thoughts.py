"""A model's thought: what one with reasoning writes between <think> and </think> is no part of what it says.

Many chat templates begin the thought themselves, so that a completion has its end alone. Where the thought never ends, nothing is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import SupportsIndex

BEGIN, END = "<think>", "</think>"
MARKERS = (BEGIN, END)
# Those that other models have as tokens of their own: Mistral's, Cohere's, ByteDance Seed's and MiniMax's.
OTHER_MARKERS = (
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
)
# Code that a reply shows: between fences, as in Markdown, or between backticks within a line; then a fence that nothing closes.
_CODE = r"(?<!`)(?P<ticks>`{3,}+).*?(?P=ticks)`*|^(?P<tildes>~{3,}+).*?^(?P=tildes)|`[^`\n]+`"
_OPEN_FENCE = r"(?<!`)`{3,}+|^~{3,}"
# What may be one JSON value that has texts; a byte order mark is no part of it.
_JSON = re.compile(r"\s*+(?:\ufeff\s*+)?(?=[{\[])")
_BLANK = re.compile(r"\s*")


class _Unplaced(str):
    """A text of which an error of the JSON decoder says neither line nor column. It would look for them from the text's beginning on, for
    each place that is tried.
    """

    def count(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        return 0

    def rfind(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        return -1


def spoken(reply: str, *, begun: bool = False, markers: Sequence[str] = MARKERS) -> str | None:
    """What a reply says after its thought; all of it where there is none, None where a thought doesn't end.

    The thought is what comes first: up to the end of the first thought, with the words before it, and of those that follow it at once. Once
    something is said, whatever stands between a beginning and an end is part of that: a reply may show the markers. An end without a
    beginning is the thought's true one, and what was before it quoted one. A reply that is one JSON object is no thought, whatever its
    texts quote, and nor is code: a beginning in it is text, and so is an end after a beginning in the same code.

    Args:
        begun: Whether the thought began before the reply, by the chat template.
        markers: The texts that begin and end a thought.
    """
    start = answer_start(reply, begun=begun, markers=markers)
    return None if start is None else reply[start:]


def answer_start(reply: str, *, begun: bool = False, markers: Sequence[str] = MARKERS) -> int | None:
    """The number of the character with which begins what a reply says, as `spoken` gives it; 0 where there is no thought."""
    unplaced = _Unplaced(reply)
    if not begun and _is_json(unplaced):
        return 0
    is_open, start = begun, None
    for is_end, place in _thought_tags(reply, 0, markers):
        if is_end:
            start = place
            break
        is_open = True
    if start is None:
        return None if is_open else 0
    # Each step takes a later thought off: one that follows at once, or one that an end without a beginning tells of.
    while start is not None and not _is_json(unplaced, start):
        later = _later_thought(reply, start, markers)
        if later == start:
            break
        start = later
    return None if start is None else _after_blanks(reply, start)


def _later_thought(reply: str, start: int, markers: Sequence[str]) -> int | None:
    """Where the thought ends that comes next after the end of one; `start` where none does, None where the last one doesn't end."""
    begin, _ = markers
    first = _after_blanks(reply, start)
    if reply.startswith(begin, first):
        return next((place for is_end, place in _thought_tags(reply, first + len(begin), markers) if is_end), None)
    # Something is said: what begins from here on is shown. In a fence that nothing closes it may well be left open.
    is_shown = is_fenced = False
    for kind, found in _tokens(reply, start, markers):
        if kind == "fence":
            is_fenced = True
        elif kind == "begin":
            is_shown = True
        elif kind == "end":
            if not is_shown:
                return found.end()
            is_shown = False
    return None if is_shown and not is_fenced else start


def ends_alone(reply: str, markers: Sequence[str] = MARKERS) -> bool:
    """Whether a thought ends in the reply that doesn't begin there: the template wrote the beginning."""
    is_end, _ = next(_thought_tags(reply, 0, markers), (False, 0))
    return is_end


def begins_thought(prompt: str, markers: Sequence[str] = MARKERS) -> bool:
    """Whether a rendered prompt ends with the beginning of a thought."""
    return prompt.rstrip().endswith(markers[0])


def noted(text: str, *, begun: bool, markers: Sequence[str] = MARKERS) -> dict[str, int | None]:
    """What a record of a completion says of its thought: `answer_start`, None where the thought doesn't end.

    Without a thought nothing; with markers of a model's own 0, as readers of the record would look for the usual ones.
    """
    start = answer_start(text, begun=begun, markers=markers)
    return {} if start == 0 and tuple(markers) == MARKERS else {"answer_start": start}


def answer_of(record: Mapping[str, object], text: str = "completion") -> str | None:
    """What the completion in a record says; None where its thought doesn't end. A record that says nothing of a thought may be from
    elsewhere: then the usual markers count.

    Args:
        text: the field with the completion.
    """
    whole = str(record[text])
    start = record["answer_start"] if "answer_start" in record else answer_start(whole)
    return whole[start:] if isinstance(start, int) else None


def _tokens(text: str, start: int, markers: Sequence[str]) -> Iterator[tuple[str | None, re.Match[str]]]:
    """What counts in a text from a place on, each with its kind: `code`, `fence` (one that nothing closes), `begin` and `end`."""
    begin, end = map(re.escape, markers)
    kinds = rf"(?P<code>{_CODE})|(?P<fence>{_OPEN_FENCE})|(?P<begin>{begin})|(?P<end>{end})"
    for found in re.compile(kinds, re.DOTALL | re.MULTILINE).finditer(text, start):
        yield found.lastgroup, found


def _thought_tags(reply: str, start: int, markers: Sequence[str]) -> Iterator[tuple[bool, int]]:
    """The tags of a thought that no code in it shows: whether each is an end, and the place after it.

    A thought may end in the middle of code. So an end in code counts, unless a beginning is before it there, or backticks enclose it.
    """
    begin, end = markers
    for kind, found in _tokens(reply, start, markers):
        if kind in ("begin", "end"):
            yield kind == "end", found.end()
        elif kind == "code" and found.group() != f"`{end}`":
            code = found.group()
            place, shown = code.find(end), code.find(begin)
            if place >= 0 and not 0 <= shown < place:
                yield True, found.start() + place + len(end)


def _after_blanks(text: str, start: int) -> int:
    blanks = _BLANK.match(text, start)
    return start if blanks is None else blanks.end()


def _is_json(reply: _Unplaced, start: int = 0) -> bool:
    """Whether the reply is one JSON object or array from a place on."""
    opening = _JSON.match(reply, start)
    if opening is None:
        return False
    try:
        _, end = json.JSONDecoder(strict=False).raw_decode(reply, opening.end())
    except (ValueError, RecursionError):
        return False
    return _after_blanks(reply, end) == len(reply)
