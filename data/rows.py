"""What a source of preferences makes of one record: a prompt, and completions with what the data say of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import SupportsFloat

from bnf.data.marked import Context
from data.messages import as_documents, as_messages, as_tools, carried_texts, decoded
from evaluation.records import Record
from evaluation.types import Message

# Role → the names that its column may have, the likeliest first. A dot goes into an object.
Columns = Mapping[str, Sequence[str]]

# The roles that every source has beside its own. `input` is what an Alpaca instruction is about, and read by itself only beside a
# prompt whose column is called `instruction`; elsewhere it may be anything, and `columns` must name it.
SHARED: Columns = {"system": ("system", "system_prompt"), "tools": ("tools",), "documents": ("documents",), "input": ()}
_ALPACA = ("instruction", "input")

# A completion: its text, or the assistant's message where that holds more.
Reply = str | Message

# Names of columns that hold what no template of text can write.
_NO_TEXT = re.compile(r"(?:^|_)(?:images?|pictures?|audios?|videos?)$", re.IGNORECASE)
# Names of columns whose texts describe a row and are no part of it.
_ABOUT = re.compile(
    r"(?:^|_)(?:ids?|uuid|idx|index|sources?|datasets?|origin|models?|meta(?:data)?|tags?|labels?|categor(?:y|ies)|domains?|"
    r"type|lang(?:uages?)?|url|licen[cs]e|date|time(?:stamp)?|created|at|split|version|hash|names?|annotators?|scores?|ratings?)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Candidate:
    """A completion as the data have it.

    `label` is +1 (preferred), −1 (dispreferred), 0 in a tie, or None where the rating `score` decides; a completion with neither is left
    out as unrated. `origin` is the model that wrote it, where the data name it.
    """

    reply: Reply
    label: int | None = None
    score: float | None = None
    origin: str = ""

    @property
    def text(self) -> str:
        """The completion's text, or its message as JSON: completions of one text are the same."""
        return self.reply if isinstance(self.reply, str) else json.dumps(self.reply, ensure_ascii=False)


@dataclass(frozen=True)
class Row:
    """A prompt's messages and its candidates; `tie` says that a vote had no winner.

    `context` holds the `tools` and `documents` that come with the prompt; `unread` names the columns that hold text and were not read.
    """

    messages: list[Message]
    candidates: tuple[Candidate, ...]
    tie: bool = False
    context: Context = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def is_pair(self) -> bool:
        """Whether one of two candidates is preferred and the other dispreferred."""
        return sorted(one.label or 0 for one in self.candidates) == [-1, 1]


class RowError(ValueError):
    """A record that gives no row: `reason` is its outcome in the ledger, the message a sentence for people."""

    def __init__(self, reason: str, detail: str) -> None:
        # A column may hold half of a surrogate pair, which UTF-8 can't write.
        super().__init__(detail.encode(errors="backslashreplace").decode())
        self.reason = reason


class Fields:
    """A record's values by the roles of its source's columns. A method raises `RowError` for a value that is missing or of another type."""

    def __init__(self, record: Mapping[str, object], columns: Columns) -> None:
        self._record, self._columns = record, columns
        self._read: set[str] = set()
        self._unread_keys: set[str] = set()

    def inside(self, record: Mapping[str, object]) -> Fields:
        """The fields of an object inside the record, by the same columns."""
        return Fields(record, self._columns)

    def has(self, role: str) -> bool:
        """Whether the record has a value for the role that isn't null."""
        return self._value(role) is not None

    def need(self, role: str) -> object:
        """The role's value, of any type; messages that a text holds as JSON are decoded.

        Raises:
            RowError: there is no value, or a text holds messages in another form.
        """
        value = self._value(role)
        if isinstance(value, str):
            return self._decoded(role, value)
        if value is None:
            names = " or ".join(self._columns[role])
            raise RowError(
                "bad_schema", f"must have {names}, got no {self._columns[role][0]}; the row has {', '.join(self._record)}"
            )
        return value

    def text(self, role: str) -> str:
        value = self.need(role)
        if not isinstance(value, str):
            held = " (messages, held as JSON)" if isinstance(self._value(role), str) else ""
            raise self.error(role, f"must be text, got {type(value).__name__}{held}")
        return value

    def number(self, role: str) -> float:
        return self._as_number(role, self.need(role))

    def optional_number(self, role: str) -> float | None:
        return self.number(role) if self.has(role) else None

    def numbers(self, role: str) -> list[float]:
        return [self._as_number(role, value) for value in self.items(role)]

    def items(self, role: str) -> list[object]:
        value = self.need(role)
        if not isinstance(value, list):
            raise self.error(role, f"must be a list, got {type(value).__name__}")
        return value

    def messages(self, role: str, author: str = "user") -> list[Message]:
        """The role's messages; a text is one message by `author`, with the record's `input` after it."""
        value = self.need(role)
        if isinstance(value, str) and (more := self._input(role)):
            value = f"{value}\n\n{more}"
        return self._as_messages(role, value, author)

    def whole_prompt(self, role: str, *replies: str) -> list[Message]:
        """The prompt. Where the `replies` are whole conversations that contain it and more, the messages before their last turn.

        Raises:
            RowError: the messages before the last turn differ between these conversations.
        """
        given, whole = self.messages(role), None
        for reply in replies:
            value = self.need(reply)
            if not isinstance(value, list) or len(value) < 2:
                continue
            before = self._as_messages(reply, value, "assistant")[:-1]
            if before == given or not _is_part(given, before):
                continue
            whole = same_prompt(whole or before, before)
        return whole or given

    def completion(self, role: str, prompt: Sequence[Message]) -> Reply:
        """A completion given as text, as the assistant's message, or as the whole conversation that ends with it."""
        return self.as_completion(role, self.need(role), prompt)

    def as_completion(self, role: str, value: object, prompt: Sequence[Message]) -> Reply:
        """As `completion`, for one value of the role's list."""
        if isinstance(value, str):
            value = self._decoded(role, value)
        if isinstance(value, str):
            return value
        messages = self._as_messages(role, value, "assistant")
        if messages[: len(prompt)] == list(prompt):
            messages = messages[len(prompt) :]
        roles = [message["role"] for message in messages]
        if roles != ["assistant"]:
            reason = "no_assistant_turn" if roles and roles[-1] != "assistant" else "bad_schema"
            raise RowError(reason, f"{self._name(role)} must be one assistant message after the prompt, got {roles}")
        return _reply(messages[0])

    def conversation(self, role: str) -> tuple[list[Message], Reply]:
        """A whole conversation, parted into its prompt and the assistant's last turn."""
        return split_last_turn(self.messages(role), self._name(role))

    def completed(self, row: Row, unused: Sequence[str] = ()) -> Row:
        """The row with the record's `system` message, `tools` and `documents`, and with the names of the columns that hold text and that
        nothing has read; `unused` ones are left out on purpose and not named."""
        self._read.update(unused)
        if self._given("system") and (system := self.text("system")).strip():
            if row.messages[0]["role"] != "system":
                row = replace(row, messages=[{"role": "system", "content": system}, *row.messages])
            elif row.messages[0]["content"].strip() != system.strip():
                raise self.error("system", "must be the messages' own system message where they have one, got another")
        context: Record = {}
        for role, read in (("tools", as_tools), ("documents", as_documents)):
            if self._given(role) and (value := self._value(role)) and not (isinstance(value, str) and not value.strip()):
                try:
                    context[role] = read(value)
                except ValueError as error:
                    raise self.error(role, str(error)) from error
        return replace(row, context={role: value for role, value in context.items() if value}, unread=self._unread(row))

    def _given(self, role: str) -> bool:
        return role in self._columns and self.has(role)

    def _input(self, role: str) -> str:
        """The text that an instruction is about, from a column beside it (Alpaca's `input`); empty where there is none."""
        names = self._columns.get("input", ())
        if not names and self._name(role) == _ALPACA[0]:
            names = _ALPACA[1:]
        value = next((found for name in names if (found := dig(self._record, name)) is not None), None)
        self._read.update(names)
        if value is not None and not isinstance(value, str):
            raise RowError("bad_schema", f"{names[0]} must be text, got {type(value).__name__}")
        return value if value and value.strip() else ""

    def _unread(self, row: Row) -> tuple[str, ...]:
        names = sorted(self._unread_keys)
        said: list[str] | None = None
        for name, value in self._record.items():
            if name in self._read or isinstance(value, int | float) or not value or _ABOUT.search(name):
                continue
            if _NO_TEXT.search(name):
                names.append(name)
                continue
            texts = [value] if name in _ALPACA and isinstance(value, str) and value.strip() else list(carried_texts(value))
            if texts and said is None:
                said = [*(str(one["content"]) for one in row.messages), *(one.text for one in row.candidates)]
            # A column may repeat the row's texts, as a whole conversation beside its parts does.
            if any(not any(text.strip() in one for one in said or ()) for text in texts):
                names.append(name)
        return tuple(names)

    def _decoded(self, role: str, text: str) -> object:
        try:
            return decoded(text)
        except ValueError as error:
            raise self.error(role, str(error)) from error

    def _as_messages(self, role: str, value: object, author: str) -> list[Message]:
        keys: set[str] = set()
        try:
            found = as_messages(value, author, keys)
        except ValueError as error:
            raise self.error(role, str(error)) from error
        if keys:
            self._unread_keys.update(f"{self._name(role)}[].{key}" for key in keys)
        return found

    def error(self, role: str, rule: str) -> RowError:
        return RowError("bad_schema", f"{self._name(role)} {rule}")

    def _as_number(self, role: str, value: object) -> float:
        try:
            # UltraFeedback writes its ratings as text.
            number = (
                float(value) if isinstance(value, str | bytes | SupportsFloat) and not isinstance(value, bool) else math.nan
            )
        except (ValueError, OverflowError):  # an integer of 400 digits is no float
            number = math.nan
        if not math.isfinite(number):
            raise self.error(role, f"must be a number, got {value!r:.40}")
        return number

    def _value(self, role: str) -> object:
        for name in self._columns[role]:
            value = dig(self._record, name)
            if value is not None:
                self._read.add(name if name in self._record else name.partition(".")[0])
                return value
        return None

    def _name(self, role: str) -> str:
        """The name of the role's column in this record."""
        return next((name for name in self._columns[role] if dig(self._record, name) is not None), self._columns[role][0])


def dig(record: object, name: str) -> object:
    """A record's value in a column; `metadata.score` is the `score` in the `metadata`, unless a column has that very name."""
    if not isinstance(record, Mapping):
        return None
    if name in record:
        return record[name]
    head, dot, rest = name.partition(".")
    return dig(record.get(head), rest) if dot else None


def _is_part(prompt: Sequence[Message], conversation: Sequence[Message]) -> bool:
    """Whether a conversation ends with the prompt; a prompt that is one text may be any of the user's messages in it."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return any(one["role"] == "user" and one["content"].strip() == prompt[0]["content"].strip() for one in conversation)
    return list(conversation[-len(prompt) :]) == list(prompt)


def _reply(message: Message) -> Reply:
    return message["content"] if message.keys() == {"role", "content"} else message


def split_last_turn(messages: list[Message], name: str) -> tuple[list[Message], Reply]:
    """A conversation's messages before the assistant's last turn, and that turn; `name` is the conversation's in messages.

    Raises:
        RowError: the last turn isn't the assistant's, or there is none before it.
    """
    if messages[-1]["role"] != "assistant":
        raise RowError("no_assistant_turn", f"{name} must end with the assistant's turn, got one by {messages[-1]['role']}")
    if len(messages) == 1:
        raise RowError("bad_schema", f"{name} must hold the prompt as well, got the assistant's turn alone")
    return messages[:-1], _reply(messages[-1])


def same_prompt(first: list[Message], second: list[Message]) -> list[Message]:
    """The prompt that both conversations have.

    Raises:
        RowError: their prompts differ.
    """
    if first != second:
        raise RowError(
            "prompts_differ", f"the two completions must answer the same prompt, got {len(first)} and {len(second)} messages"
        )
    return first


def pair(messages: list[Message], chosen: Candidate, rejected: Candidate) -> Row:
    """The row of a pair. It is a tie where both sides have the same score."""
    if chosen.score is not None and chosen.score == rejected.score:
        return Row(messages, tuple(replace(one, label=0) for one in (chosen, rejected)), tie=True)
    return Row(messages, (chosen, rejected))
