"""What a preference source gives: one row per line of its file, good or not."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evaluation._types import Message


@dataclass(frozen=True)
class PairRow:
    """A preference: the prompt's messages, and the texts of the better and the worse completion."""

    line: int
    id: str
    messages: list[Message]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class BadRow:
    """A line that gives no preference; `reason` is a word for the ledger, `detail` a sentence for people."""

    line: int
    reason: Literal["bad_schema", "not_utf8"]
    detail: str


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]] | BadRow]:
    """Yields (line number from 1, object); a blank line is skipped, a line that is no object is a `BadRow`. `.gz` is unpacked.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where a `.gz` file is no gzip, or ends early.
    """
    if not path.is_file():
        raise FileNotFoundError(f"data.path must be a file, got {path}; correct the path")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _parse(number, line)
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"data.path must be a whole gzip file, got {path} ({error}); fetch it again") from error


def _parse(number: int, line: bytes) -> tuple[int, dict[str, Any]] | BadRow:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(number, "not_utf8", f"byte {error.start} is not UTF-8")
    except (ValueError, RecursionError) as error:
        return BadRow(number, "bad_schema", f"not JSON: {error}")
    if not isinstance(row, dict):
        return BadRow(number, "bad_schema", f"must be a JSON object, got {type(row).__name__}")
    return number, row


def as_messages(value: Any, role: str) -> list[Message]:
    """Text as one message by `role`; a list of messages as it is.

    Raises:
        ValueError: where it is neither.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be text or a list of messages, got {type(value).__name__ if value != [] else 'an empty list'}")
    for message in value:
        fields = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not all(isinstance(text, str) for text in fields):
            raise ValueError(f"must hold messages with role and content as text, got {str(message)[:80]}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def completion_text(value: Any, prompt: list[Message]) -> str:
    """A completion given as text, as the assistant's message, or as the whole conversation that ends with it.

    Raises:
        ValueError: where it is none of these.
    """
    if isinstance(value, str):
        return value
    messages = as_messages(value, "assistant")
    if messages[: len(prompt)] == prompt:
        messages = messages[len(prompt) :]
    if [message["role"] for message in messages] != ["assistant"]:
        raise ValueError(f"must be one assistant message after the prompt, got {[message['role'] for message in messages]}")
    return messages[0]["content"]
