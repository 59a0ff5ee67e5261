"""Completions by prompt, shared by all generations of one model with one decoding: raising a limit generates the new items alone.

One append-only JSON Lines file per (model content, engine, decoding). Several processes may write it at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from pathlib import Path

from evaluation.engines import Prompt
from evaluation.records import Record, read_repaired, to_line
from evaluation.types import Generation


class CompletionCache:
    """The completions of one file. The file's name must stand for everything that decides a completion but the prompt.

    Args:
        read: Whether earlier completions are taken; what is generated is written down in any case, and the newest counts.
    """

    def __init__(self, path: Path, *, read: bool = True) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            # Under the lock nobody is writing a line: an unfinished one was left by a kill, and is cut off.
            fcntl.flock(file, fcntl.LOCK_EX)
            records = read_repaired(path)
        self._known: dict[str, Record] = {record["key"]: record for record in records} if read else {}

    def get(self, prompt: Prompt, drawn: str = "") -> Generation | None:
        """The completion of a prompt; of one that is sampled, `drawn` names what decides which of its completions it is."""
        record = self._known.get(_key(prompt, drawn))
        return None if record is None else Generation.from_json(record)

    def put(self, prompt: Prompt, generation: Generation, drawn: str = "") -> None:
        """Keeps a completion, under the names that `get` asks for.

        One that the model did not give (it failed, its prompt was too long) is not kept.
        """
        if generation.finish_reason not in ("stop", "length"):
            return
        record = {"key": _key(prompt, drawn), **generation.to_json()}
        with self._path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(to_line(record))
            file.flush()


def _key(prompt: Prompt, drawn: str) -> str:
    return hashlib.sha256((json.dumps(list(prompt), sort_keys=True) + drawn).encode()).hexdigest()
