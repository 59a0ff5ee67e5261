"""What a preference source gives for one record of its data: a prompt and completions with what is known about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation._types import Message

# Columns of a source: what a role is called in its data, the likeliest first. A dot goes into an object.
Columns = Mapping[str, Sequence[str]]

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}


@dataclass(frozen=True)
class Candidate:
    """A completion as the data has it.

    `label` is +1 (preferred), −1 (dispreferred), 0 in a tie, or None where its rating `score` decides; with neither it is unrated,
    and left out. `origin` says who wrote it, where the data does.
    """

    text: str
    label: int | None = None
    score: float | None = None
    origin: str = ""


@dataclass(frozen=True)
class Row:
    """A prompt's messages and its candidates. Two candidates with labels +1 and −1 are a pair; `tie` says that a vote had no winner."""

    messages: list[Message]
    candidates: tuple[Candidate, ...]
    tie: bool = False


class RowError(ValueError):
    """A record that gives no row: `reason` is a word for the ledger, the message a sentence for people."""

    def __init__(self, reason: str, detail: str) -> None:
        # A column may hold half of a surrogate pair, which no ledger can write.
        super().__init__(detail.encode(errors="backslashreplace").decode())
        self.reason = reason


class Fields:
    """A record's values by the roles that its source's columns name.

    What a method reads is refused as a `RowError` where it is missing or of another type.
    """

    def __init__(self, record: Mapping[str, Any], columns: Columns) -> None:
        self._record, self._columns = record, columns

    def inside(self, record: Mapping[str, Any]) -> Fields:
        """The same columns, looked up in an object that stands inside the record."""
        return Fields(record, self._columns)

    def has(self, role: str) -> bool:
        """Whether the record has a value for the role; null is none."""
        return self._value(role) is not None

    def need(self, role: str) -> Any:
        """The role's value, of any type."""
        value = self._value(role)
        if value is None:
            names = " or ".join(self._columns[role])
            raise RowError(
                "bad_schema", f"must have {names}, got no {self._columns[role][0]}; the row has {', '.join(self._record)}"
            )
        return value

    def text(self, role: str) -> str:
        value = self.need(role)
        if not isinstance(value, str):
            raise self.error(role, f"must be text, got {type(value).__name__}")
        return value

    def number(self, role: str) -> float:
        return self._as_number(role, self.need(role))

    def optional_number(self, role: str) -> float | None:
        return self.number(role) if self.has(role) else None

    def numbers(self, role: str) -> list[float]:
        return [self._as_number(role, value) for value in self.items(role)]

    def items(self, role: str) -> list[Any]:
        value = self.need(role)
        if not isinstance(value, list):
            raise self.error(role, f"must be a list, got {type(value).__name__}")
        return value

    def messages(self, role: str, author: str = "user") -> list[Message]:
        """Text as one message by `author`; messages as they are."""
        try:
            return as_messages(self.need(role), author)
        except RowError:
            raise
        except ValueError as error:
            raise self.error(role, str(error)) from error

    def completion(self, role: str, prompt: Sequence[Message]) -> str:
        """A completion given as text, as the assistant's message, or as the whole conversation that ends with it."""
        return self.as_completion(role, self.need(role), prompt)

    def as_completion(self, role: str, value: Any, prompt: Sequence[Message]) -> str:
        """As `completion`, of a value that stands inside the role's."""
        if isinstance(value, str):
            return value
        try:
            messages = as_messages(value, "assistant")
        except ValueError as error:
            raise self.error(role, str(error)) from error
        if messages[: len(prompt)] == list(prompt):
            messages = messages[len(prompt) :]
        roles = [message["role"] for message in messages]
        if roles != ["assistant"]:
            reason = "no_assistant_turn" if roles and roles[-1] != "assistant" else "bad_schema"
            raise RowError(reason, f"{self._name(role)} must be one assistant message after the prompt, got {roles}")
        return messages[0]["content"]

    def conversation(self, role: str) -> tuple[list[Message], str]:
        """A whole conversation as its prompt and the assistant's last turn."""
        return split_last_turn(self.messages(role), self._name(role))

    def error(self, role: str, rule: str) -> RowError:
        return RowError("bad_schema", f"{self._name(role)} {rule}")

    def _as_number(self, role: str, value: Any) -> float:
        try:
            # UltraFeedback writes its ratings as text.
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):  # an integer of 400 digits is no float
            number = math.nan
        if not math.isfinite(number):
            raise self.error(role, f"must be a number, got {value!r:.40}")
        return number

    def _value(self, role: str) -> Any:
        for name in self._columns[role]:
            value = dig(self._record, name)
            if value is not None:
                return value
        return None

    def _name(self, role: str) -> str:
        """The role's column, as the record has it."""
        return next((name for name in self._columns[role] if dig(self._record, name) is not None), self._columns[role][0])


def dig(record: Any, name: str) -> Any:
    """A record's value by its column; `metadata.score` is the `score` in the `metadata`, unless a column has that very name."""
    if not isinstance(record, Mapping):
        return None
    if name in record:
        return record[name]
    head, dot, rest = name.partition(".")
    return dig(record.get(head), rest) if dot else None


def as_messages(value: Any, author: str) -> list[Message]:
    """Text as one message by `author`; one message, or a list of them, with `role` and `content` or ShareGPT's `from` and `value`.

    Raises:
        ValueError: where it is none of these.
    """
    if isinstance(value, str):
        return [{"role": author, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be text or a list of messages, got {type(value).__name__ if value != [] else 'an empty list'}")
    return [_as_message(message) for message in value]


def _as_message(message: Any) -> Message:
    fields = [None, None]
    if isinstance(message, dict):
        fields = [message.get("role", message.get("from")), message.get("content", message.get("value"))]
    role, content = fields
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(f"must hold messages with role and content as text, got {str(message)[:80]}")
    return {"role": _ROLES.get(role, role), "content": content}


def split_last_turn(messages: list[Message], name: str) -> tuple[list[Message], str]:
    """A conversation as what stands before the assistant's last turn, and that turn.

    Raises:
        RowError: where the assistant doesn't have the last word, or has the only one.
    """
    if messages[-1]["role"] != "assistant":
        raise RowError("no_assistant_turn", f"{name} must end with the assistant's turn, got one by {messages[-1]['role']}")
    if len(messages) == 1:
        raise RowError("bad_schema", f"{name} must hold the prompt as well, got the assistant's turn alone")
    return messages[:-1], messages[-1]["content"]


def same_prompt(first: list[Message], second: list[Message]) -> list[Message]:
    """The prompt of two conversations.

    Raises:
        RowError: where they are not replies to the same messages.
    """
    if first != second:
        raise RowError(
            "prompts_differ", f"the two completions must answer the same prompt, got {len(first)} and {len(second)} messages"
        )
    return first


def pair(messages: list[Message], chosen: Candidate, rejected: Candidate) -> Row:
    """A pair; equal scores on both sides make it a tie, whatever the columns say."""
    if chosen.score is not None and chosen.score == rejected.score:
        return Row(messages, tuple(Candidate(one.text, 0, one.score, one.origin) for one in (chosen, rejected)), tie=True)
    return Row(messages, (chosen, rejected))
