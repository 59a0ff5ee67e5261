"""The record of everything that a judge was asked: append-only, one line per answered request, keyed by what was asked.

Every run that asks a judge shares it, so that an answer which was paid for is never paid for again: not after a kill, not in another
run, not when something else of the recipe has changed. An answer that was regenerated makes another request, and is judged anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.records import Record, read_repaired, to_line
from evaluation.types import Generation, Message


def call_key(judge: Mapping[str, Any], messages: Sequence[Message], parameters: Mapping[str, Any]) -> str:
    """What makes two requests the same: the judge, what it reads, and how it decodes."""
    identity = json.dumps([dict(judge), list(messages), dict(parameters)], sort_keys=True)
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


class Calls:
    """The answers that are there, and the file they are added to. One process at a time has it: others wait, and then find the answers.

    Args:
        fresh: Whether what was answered before is asked again.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.with_name(path.name + ".lock").open("w")
        # Freed by the kernel when its owner dies.
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._answers: dict[str, Record] = {}
        for record in read_repaired(path):
            if not fresh and not record["finish_reason"].startswith("error"):
                self._answers[record["key"]] = record
        self._file = path.open("a", encoding="utf-8")

    def get(self, key: str) -> Record | None:
        """The last answer to this request; a request that failed has none."""
        return self._answers.get(key)

    def add(self, key: str, reply: Generation, about: Mapping[str, Any]) -> Record:
        """Writes an answer down before anything else is done with it."""
        record: Record = {
            "key": key,
            **about,
            "reply": reply.completion,
            "finish_reason": reply.finish_reason,
            "num_prompt_tokens": reply.num_prompt_tokens,
            "num_completion_tokens": reply.num_completion_tokens,
            "top_logprobs": reply.top_logprobs,
            "cost_usd": reply.cost_usd,
        }
        self._file.write(to_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())
        if not reply.finish_reason.startswith("error"):
            self._answers[key] = record
        return record

    def close(self) -> None:
        self._file.close()
        self._lock.close()
