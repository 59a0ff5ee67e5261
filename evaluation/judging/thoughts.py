"""A model's thought: what one with reasoning writes between <think> and </think> is no part of what it says.

Many chat templates begin the thought themselves, so that a reply has its end alone. Where the thought never ends, the reply says nothing.
"""

from __future__ import annotations

import json
import re

BEGIN, END = "<think>", "</think>"
# Tags between backticks are quoted: a judge may write of those that an answer has.
_QUOTED = re.compile(r"`</?think>`")


def spoken(reply: str, *, begun: bool = False) -> str | None:
    """What a reply says after its thought; all of it where there is none, None where the thought doesn't end.

    What stands before the thought's end may be thought, and is never part of what is said. A reply that is one JSON object is no thought,
    whatever its texts quote.

    Args:
        begun: Whether the thought began before the reply, by the chat template.
    """
    tags = _without_quoted(reply)
    end = tags.rfind(END)
    if not begun and _is_object(reply):
        return reply
    if end < 0:
        return None if begun or BEGIN in tags else reply
    start = end + len(END)
    said = reply[start:].lstrip()
    return None if BEGIN in tags[start:] and not _is_object(said) else said


def ends_alone(reply: str) -> bool:
    """Whether the reply has the end of a thought and no beginning: the template wrote that."""
    tags = _without_quoted(reply)
    return END in tags and BEGIN not in tags


def _without_quoted(reply: str) -> str:
    """The reply with blanks for quoted tags, so that places stay the same."""
    return _QUOTED.sub(lambda found: " " * len(found.group()), reply)


def _is_object(reply: str) -> bool:
    if not reply.lstrip().startswith("{"):
        return False
    try:
        json.JSONDecoder(strict=False).decode(reply.strip())
    except (ValueError, RecursionError):
        return False
    return True
