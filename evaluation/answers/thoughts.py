"""A model's thought: what one with reasoning writes between <think> and </think> is no part of what it says.

Many chat templates begin the thought themselves, so that a completion has its end alone. Where the thought never ends, nothing is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

BEGIN, END = "<think>", "</think>"
MARKERS = (BEGIN, END)
# Those that other models have as tokens of their own: Mistral's, Cohere's, ByteDance Seed's and MiniMax's.
OTHER_MARKERS = (
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
)
# Code that a reply shows: a tag that begins a thought is text there. One that ends a thought may end it in the middle of code.
_FENCED = re.compile(r"```.*?```", re.DOTALL)


def spoken(reply: str, *, begun: bool = False, markers: Sequence[str] = MARKERS) -> str | None:
    """What a reply says after its thought; all of it where there is none, None where the thought doesn't end.

    What stands before the thought's end may be thought, and is never part of what is said. A reply that is one JSON object is no thought,
    whatever its texts quote.

    Args:
        begun: Whether the thought began before the reply, by the chat template.
        markers: The texts that begin and end a thought.
    """
    start = answer_start(reply, begun=begun, markers=markers)
    return None if start is None else reply[start:]


def answer_start(reply: str, *, begun: bool = False, markers: Sequence[str] = MARKERS) -> int | None:
    """The number of the character with which begins what a reply says, as `spoken` gives it; 0 where there is no thought."""
    begin, end = markers
    tags = _without_quoted(reply, markers)
    last = tags.rfind(end)
    if not begun and _is_object(reply):
        return 0
    if last < 0:
        return None if begun or begin in _FENCED.sub("", tags) else 0
    start = last + len(end)
    said = reply[start:].lstrip()
    if begin in _FENCED.sub("", tags[start:]) and not _is_object(said):
        return None
    return len(reply) - len(said)


def ends_alone(reply: str, markers: Sequence[str] = MARKERS) -> bool:
    """Whether the reply has the end of a thought and no beginning: the template wrote that."""
    tags = _without_quoted(reply, markers)
    return markers[1] in tags and markers[0] not in tags


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


def _without_quoted(reply: str, markers: Sequence[str]) -> str:
    """The reply with blanks for tags between backticks, which are quoted: a reply may write of another's. Places stay the same."""
    quoted = "|".join(f"`{re.escape(marker)}`" for marker in markers)
    return re.sub(quoted, lambda found: " " * len(found.group()), reply)


def _is_object(reply: str) -> bool:
    if not reply.lstrip().startswith("{"):
        return False
    try:
        json.JSONDecoder(strict=False).decode(reply.strip())
    except (ValueError, RecursionError):
        return False
    return True
