"""The replies of an engine to lm-eval's requests, kept one by one: a task that was killed asks for those that are missing alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from evaluation.engines import Completed, LikelihoodEngine, Prompt
from evaluation.records import Record, read_repaired, to_line
from evaluation.types import Generation, Sampling

REPLIES_FILE = "replies.jsonl"


class KeptReplies:
    """An engine whose replies are appended to a file as they come, and those that the file has are not asked for.

    A reply stands under what was asked: the prompt's ids and how to decode, or the context's and the continuation's ids. What else decides
    it (the model, the engine, the task) must be the same for the whole file. A request that is made several times has as many replies, as
    several samples of one prompt are.
    """

    def __init__(self, engine: LikelihoodEngine, path: Path) -> None:
        self._engine, self._path = engine, path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._kept: defaultdict[str, list[Record]] = defaultdict(list)
        records = read_repaired(path)
        # How many the file had.
        self.num_kept = len(records)
        for record in records:
            self._kept[record["key"]].append(record)

    @property
    def max_model_len(self) -> int | None:
        return self._engine.max_model_len

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Completed]:
        """As `Engine.generate`, of one completion per prompt."""
        keys = [_key(list(prompt), dataclasses.asdict(sampling)) for prompt in prompts]
        missing = []
        for index, key in enumerate(keys):
            if (record := self._taken(key)) is None:
                missing.append(index)
            else:
                yield index, [Generation.from_json(record)]
        for place, found in self._engine.generate([prompts[index] for index in missing], sampling):
            index = missing[place]
            if not found[0].finish_reason.startswith("error"):
                self._keep(keys[index], found[0].to_json())
            yield index, found

    def loglikelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        """As `LikelihoodEngine.loglikelihoods`."""
        keys = [_key(list(context), list(continuation)) for context, continuation in pairs]
        missing = []
        for index, key in enumerate(keys):
            if (record := self._taken(key)) is None:
                missing.append(index)
            else:
                yield index, (record["logp"], record["is_greedy"])
        for place, (logp, is_greedy) in self._engine.loglikelihoods([pairs[index] for index in missing]):
            index = missing[place]
            self._keep(keys[index], {"logp": logp, "is_greedy": is_greedy})
            yield index, (logp, is_greedy)

    def _taken(self, key: str) -> Record | None:
        kept = self._kept[key]
        return kept.pop(0) if kept else None

    def _keep(self, key: str, reply: Mapping[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(to_line({"key": key, **reply}))


def _key(*asked: object) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
