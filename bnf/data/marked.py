"""Conversations with a mark in the place of every text: the marks show where a chat template writes which text."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

# `role` and `content` as text; where the message has them, `tool_calls`, `name`, `tool_call_id` and its reasoning.
Message = dict[str, Any]
# What stands beside a conversation: `tools` and `documents`, as apply_chat_template takes them.
Context = Mapping[str, Any]
NO_CONTEXT: Context = {}
CONTEXT_KEYS = ("tools", "documents")

# Keys of a tool or a call that say how to read it, and hold no text of the conversation.
_STRUCTURE = frozenset({"type", "id", "index", "required", "strict", "additionalProperties", "$schema"})
KNOWN_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_MARK = re.compile(r"bNf(\d{4,})PaRt")


def context_of(record: Mapping[str, Any]) -> Context:
    """The context of a record (a sample, or a line of groups.jsonl): its tools and documents."""
    return {key: record[key] for key in CONTEXT_KEYS if key in record}


def texts_of(messages: Sequence[Message], context: Context = NO_CONTEXT) -> list[str]:
    """Every text of a conversation that a template has to write, including unusual roles."""
    roles = [message["role"] for message in messages if message["role"] not in KNOWN_ROLES]
    return roles + shape_of(messages, context).texts


@dataclass(frozen=True)
class Place:
    """Where a text stands: its message's number from 0 and role (in the context None and ""), and its key."""

    message: int | None
    role: str
    key: str

    def __str__(self) -> str:
        of = "" if self.message is None else f"message {self.message} ({self.role})"
        return of if self.key == "content" else f"{of}, its {self.key}" if of else self.key


@dataclass(frozen=True)
class Shape:
    """A conversation's texts, and a key made of everything else. Conversations of one shape have equal keys."""

    key: Hashable
    texts: list[str]


class Marked:
    """A conversation with a mark in the place of every text, the texts, and where each stands."""

    def __init__(self, messages: Sequence[Message], context: Context, reply: Message | None = None) -> None:
        self.texts: list[str] = []
        self.places: list[Place] = []
        linked = _linked(messages)
        self.messages = [self._message(number, one, linked) for number, one in enumerate(messages)]
        self.context = {
            name: [self._inside(Place(None, "", name), one, "") for one in values] for name, values in context.items()
        }
        if reply is not None:
            self.messages.append(self._message(len(messages), reply, set()))

    def _message(self, number: int, message: Message, linked: set[tuple[int, str]]) -> Message:
        place = Place(number, str(message["role"]), "content")
        marked: Message = {}
        for key, value in message.items():
            if key == "role" or (number, key) in linked:
                marked[key] = value
            else:
                marked[key] = self._inside(replace(place, key=key), value, key)
        return marked

    def _inside(self, place: Place, value: object, key: str) -> object:
        """The value with marks. Names count as texts where the data chose them: a call's arguments, a tool's properties."""
        if isinstance(value, str):
            return self._text(place, value)
        if isinstance(value, list | tuple):
            return [self._inside(place, one, key) for one in value]
        if key == "arguments" and not isinstance(value, dict):
            return self._text(place, json.dumps(value))
        if not isinstance(value, dict):
            return value
        if key == "arguments":
            return {self._text(place, name): self._inside(place, one, "arguments") for name, one in value.items()}
        if key == "properties":
            return {self._text(place, name): self._inside(place, one, "") for name, one in value.items()}
        return {name: one if name in _STRUCTURE else self._inside(place, one, name) for name, one in value.items()}

    def _text(self, place: Place, text: str) -> str:
        if not text or text.isspace():
            return text
        self.texts.append(text)
        self.places.append(place)
        return f"bNf{len(self.texts) - 1:04d}PaRt"


def shape_of(messages: Sequence[Message], context: Context) -> Shape:
    """The texts and the shape of a conversation."""
    if not context and all(len(message) == 2 and isinstance(message["content"], str) for message in messages):
        texts = [message["content"] for message in messages]
        blank = [text if not text or text.isspace() else None for text in texts]
        roles = (message["role"] for message in messages)
        return Shape(
            tuple(zip(roles, blank, strict=True)), [text for text, own in zip(texts, blank, strict=True) if own is None]
        )
    marked = Marked(messages, context)
    return Shape(json.dumps([marked.messages, marked.context], ensure_ascii=False), marked.texts)


def _linked(messages: Sequence[Message]) -> set[tuple[int, str]]:
    """The (message, key) of names and ids in tools' messages that only repeat those of the call that they answer, in the calls' order."""
    linked: set[tuple[int, str]] = set()
    calls: list[Mapping[str, Any]] = []
    for number, message in enumerate(messages):
        if message["role"] != "tool":
            calls = list(message.get("tool_calls") or ())
        elif calls:
            call = calls.pop(0)
            name = call.get("function", call).get("name")
            linked |= {
                (number, key)
                for key, known in (("name", name), ("tool_call_id", call.get("id")))
                if key in message and message[key] == known
            }
    return linked


def split(rendering: str) -> tuple[list[str], list[int]]:
    """What stands around the marks of a rendering, and the marks' numbers in its order."""
    parts = _MARK.split(rendering)
    return parts[::2], [int(number) for number in parts[1::2]]
