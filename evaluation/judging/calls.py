"""The record of everything that a judge was asked: append-only, one line per answered request, keyed by what was asked.

Every run that asks a judge shares it, so that an answer which was paid for is never paid for again: not after a kill, not in another
run, not when something else of the recipe has changed. An answer that was regenerated makes another request, and is judged anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.records import Record, read_repaired, to_line
from evaluation.types import Generation, Message


@dataclass(frozen=True)
class About:
    """What a line of the record says of its request to people: the judge, its protocol, and the judgment that needs the reply.

    A request for a reward alone has no judgment.

    Attributes:
        number: The judgment's `number`; `game` in the file.
        attempt: 1, or 2 for a request to go on.
    """

    judge: str
    protocol: str
    question_id: str | None = None
    number: int | None = None
    candidate: str | None = None
    attempt: int | None = None

    def to_json(self) -> Record:
        asked = {"judge": self.judge, "form": self.protocol}
        if self.question_id is None:
            return asked
        judgment = {"question_id": self.question_id, "game": self.number, "candidate": self.candidate}
        return {**asked, **judgment, "attempt": self.attempt}


def call_key(judge: Mapping[str, object], messages: Sequence[Message], parameters: Mapping[str, object]) -> str:
    """What makes two requests the same: the judge, what it reads, and how it decodes."""
    identity = json.dumps([dict(judge), list(messages), dict(parameters)], sort_keys=True)
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


class Calls:
    """The answers that are there, and the file they are added to. Safe between threads.

    One process at a time has it: others wait, and then find the answers.

    Args:
        fresh: Whether what was answered before is asked again.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_name(path.name + ".lock").open("w")
        # Freed by the kernel when its owner dies.
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._answers: dict[str, Generation] = {}
        for record in read_repaired(path):
            if not fresh and not record["finish_reason"].startswith("error"):
                self._answers[record["key"]] = _from_json(record)
        self._file = path.open("a", encoding="utf-8")
        self._writing = threading.Lock()

    def get(self, key: str) -> Generation | None:
        """The last answer to this request; a request that failed has none."""
        return self._answers.get(key)

    def add(self, key: str, reply: Generation, about: About) -> None:
        """Puts an answer on file. When it returns, a kill or a power cut can't lose the answer."""
        with self._writing:
            self._file.write(to_line({"key": key, **about.to_json(), **_to_json(reply)}))
            self._file.flush()
            os.fsync(self._file.fileno())
            if not reply.finish_reason.startswith("error"):
                self._answers[key] = reply

    def close(self) -> None:
        self._file.close()
        self._lock.close()


def _to_json(reply: Generation) -> Record:
    return {
        "reply": reply.completion,
        "finish_reason": reply.finish_reason,
        "num_prompt_tokens": reply.num_prompt_tokens,
        "num_completion_tokens": reply.num_completion_tokens,
        "top_logprobs": reply.top_logprobs,
        "cost_usd": reply.cost_usd,
    }


def _from_json(record: Record) -> Generation:
    return Generation(
        record["reply"],
        [],
        record["finish_reason"],
        record["num_prompt_tokens"],
        record["num_completion_tokens"],
        record["top_logprobs"],
        record["cost_usd"],
    )
