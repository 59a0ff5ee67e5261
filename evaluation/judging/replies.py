"""What a judge is shown of a conversation, and what is read from its reply: the field of a JSON object, a rating."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from evaluation.judging.aggregates.wildbench import CUT
from evaluation.types import Message

_NUMBER = re.compile(r"\s*[0-9]+(?:\.[0-9]*)?\s*")


def json_field(reply: str, name: str) -> object:
    """A field of the JSON object in the reply, which may stand in a fence or after other words; None where there is none."""
    decoder = json.JSONDecoder(strict=False)
    start = reply.find("{")
    if start < 0:
        return None
    try:
        value, _ = decoder.raw_decode(reply, start)
    except (ValueError, RecursionError):
        return None
    return value.get(name) if isinstance(value, dict) else None


def rating(value: object) -> float | None:
    """A number from 1 to 10, also as text; None for anything else."""
    # Python itself reads more as a number, such as `1_0`.
    if isinstance(value, bool) or not (isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value))):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if 1 <= number <= 10 else None


def conversation_texts(
    conversation: Sequence[Message], last_heading: str, max_words: int | None = None
) -> list[tuple[str, str]]:
    """(heading, text) of the turns before the last message, where there are any, and of the last message."""
    *history, last = conversation
    parts = []
    if history:
        before = "\n\n".join(f"{message['role'].upper()}: {message['content']}" for message in history)
        parts.append(("Conversation so far", cut_words(before, max_words)))
    return [*parts, (last_heading, cut_words(last["content"], max_words))]


def cut_words(text: str, max_words: int | None) -> str:
    """The first words of a text, marked as cut, by WildBench's rule; all of it without a limit."""
    if max_words is None:
        return text
    words = text.split(" ")
    return text if len(words) <= max_words else " ".join(words[:max_words]) + CUT
