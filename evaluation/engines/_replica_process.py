"""What a replica does: it opens an engine, and answers messages. Here is also the process that does so on this machine: it reads messages
from standard input, one JSON object a line, and replies on a pipe (`_replicas`)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from bnf.process import die_with_parent
from evaluation.engines import LikelihoodEngine, open_engine
from evaluation.records import Record
from evaluation.types import Sampling

REPORT_FD, CORES = "BNF_REPLICA_FD", "BNF_REPLICA_CORES"


@dataclass(frozen=True)
class Opening:
    """The engine's name, the model's folder, and the options of the engine's `open`."""

    name: str
    model: str
    options: Record


class OpenEngine:
    """An engine that answers messages.

    Raises:
        ValueError: as the engine's `open`, or the model's folder is not on this machine.
    """

    def __init__(self, opening: Opening) -> None:
        if not Path(opening.model).is_dir():
            raise ValueError(
                f"the model's folder must be on every node under the same path, got {opening.model}, which isn't there; mount BNF_HOME "
                "and the models there too"
            )
        self._engine = cast(LikelihoodEngine, open_engine(opening.name, opening.model, **opening.options))
        self.about: Record = {"version": self._engine.version, "max_model_len": self._engine.max_model_len}

    def __call__(self, message: Record) -> Iterator[Record]:
        """The replies to a message: `do` says what is asked, and each reply has the `index` of what it belongs to."""
        if message["do"] == "generate":
            if message["seed"] is not None:
                self._engine.reseed(message["seed"])
            for index, found in self._engine.generate(message["prompts"], Sampling(**message["sampling"])):
                yield {"index": index, "found": [asdict(one) for one in found]}
        else:
            for index, (logp, is_greedy) in self._engine.loglikelihoods([(one, rest) for one, rest in message["pairs"]]):
                yield {"index": index, "logp": logp, "is_greedy": is_greedy}

    def close(self) -> None:
        self._engine.close()


def main() -> None:
    die_with_parent()
    if (cores := os.environ.get(CORES)) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    engine: OpenEngine | None = None
    with os.fdopen(int(os.environ[REPORT_FD]), "w", buffering=1) as replies:
        for line in sys.stdin:
            message = json.loads(line)
            try:
                if engine is None:
                    engine = OpenEngine(Opening(**message))
                    found: Iterator[Record] = iter([engine.about])
                else:
                    found = engine(message)
                for reply in found:
                    replies.write(json.dumps(reply) + "\n")
            except Exception as error:
                replies.write(json.dumps({"error": str(error), "kind": type(error).__name__}) + "\n")
            else:
                replies.write('{"end": true}\n')
    if engine is not None:
        engine.close()


if __name__ == "__main__":
    main()
