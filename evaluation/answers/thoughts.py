"""A model's thought: what one with reasoning writes between <think> and </think> is no part of what it says.

Many chat templates begin the thought themselves, so that a completion has its end alone. Where the thought never ends, nothing is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

BEGIN, END = "<think>", "</think>"
MARKERS = (BEGIN, END)
# Those that other models have as tokens of their own: Mistral's, Cohere's, ByteDance Seed's and MiniMax's.
OTHER_MARKERS = (
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
)
# Code that a reply shows: between fences, or between backticks within a line.
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
_OBJECT = re.compile(r"\s*\{")


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
    if not begun and _is_object(reply):
        return 0
    end, is_open = None, begun
    for tag in _tags(_without_quoted(reply, markers), markers):
        if tag.group() == markers[1]:
            end = tag.end()
            break
        is_open = True
    if end is None:
        return None if is_open else 0
    said = reply[end:]
    start = _later_start(said, markers)
    return None if start is None else len(reply) - len(said[start:].lstrip())


def _later_start(said: str, markers: Sequence[str]) -> int | None:
    """Where in what follows the end of a first thought the answer begins; None where a later thought doesn't end."""
    start, is_said = 0, False
    # What the last beginning without an end begins: a thought, or what the answer shows.
    begun: str | None = None
    if _is_object(said):
        return start
    for tag in _tags(_CODE.sub(_blank, said), markers):
        if tag.group() == markers[0]:
            is_said = is_said or bool(said[start : tag.start()].strip())
            begun = begun or ("shown" if is_said else "thought")
            continue
        if begun != "shown":
            start, is_said = tag.end(), False
            if _is_object(said, start):
                return start
        begun = None
    return start if begun is None else None


def ends_alone(reply: str, markers: Sequence[str] = MARKERS) -> bool:
    """Whether a thought ends in the reply that doesn't begin there: the template wrote the beginning."""
    first = next(_tags(_without_quoted(reply, markers), markers), None)
    return first is not None and first.group() == markers[1]


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


def _tags(text: str, markers: Sequence[str]) -> Iterator[re.Match[str]]:
    return re.finditer("|".join(map(re.escape, markers)), text)


def _without_quoted(reply: str, markers: Sequence[str]) -> str:
    """The reply with blanks for the tags that code in it shows. Places stay the same.

    A thought may end in the middle of code. So an end counts, unless a beginning is before it in the same code, or backticks enclose it.
    """
    begin, end = markers

    def blanked(found: re.Match[str]) -> str:
        code = found.group()
        if code == f"`{end}`":
            return " " * len(code)
        first, last = code.find(begin), code.rfind(end)
        if 0 <= first < last:
            code = code[:first] + " " * (last + len(end) - first) + code[last + len(end) :]
        return code.replace(begin, " " * len(begin))

    return _CODE.sub(blanked, reply)


def _blank(found: re.Match[str]) -> str:
    return " " * len(found.group())


def _is_object(reply: str, start: int = 0) -> bool:
    """Whether the reply is one JSON object from a place on."""
    if not _OBJECT.match(reply, start):
        return False
    try:
        json.JSONDecoder(strict=False).decode(reply[start:].strip())
    except (ValueError, RecursionError):
        return False
    return True
