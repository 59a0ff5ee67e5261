"""What a replica does: it opens an engine, and answers messages. Here is also the process that does so on this machine: it reads messages
from standard input, one JSON object a line, and replies on a pipe (`_replicas`)."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import cast

from bnf.parallel.node_folders import NodeFolder
from bnf.parallel.sent_errors import SentError
from bnf.plugins import load
from bnf.process import die_with_parent, take_cores
from evaluation.engines import ENGINES, LikelihoodEngine, open_engine
from evaluation.records import Record
from evaluation.types import Sampling

REPORT_FD = "BNF_REPLICA_FD"


@dataclass(frozen=True)
class Opening:
    """The engine's name, the model's folder, and the options of the engine's `open`."""

    name: str
    model: str
    options: Record


class OpenEngine:
    """An engine that answers messages.

    Raises:
        ValueError: as the engine's `open`.
    """

    def __init__(self, opening: Opening) -> None:
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


def installed(engine: str) -> str:
    """Which of the engine's packages is installed here, with its version; empty where none is."""
    for package in load(ENGINES, engine).PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            return f"{package} {metadata.version(package)}"
    return ""


def open_on_node(asked: tuple[NodeFolder, Opening, str]) -> OpenEngine:
    """The engine on a node of a cluster, which has the model's folder where the function says.

    Raises:
        ValueError: as `OpenEngine`; or the node has another version of the engine than the run's machine, whose version the key has.
    """
    folder, opening, version = asked
    if (own := installed(opening.name)) != version:
        raise ValueError(
            f"every node must have the engine of the run's machine, {version}, got {own or 'none'} on {platform.node()}; install the same "
            "version there"
        )
    return OpenEngine(replace(opening, model=folder(opening.model)))


def main() -> None:
    die_with_parent()
    take_cores()
    engine: OpenEngine | None = None
    report = int(os.environ[REPORT_FD])
    # The pipe must close with this process, though one that the engine has started lives on.
    os.set_inheritable(report, False)
    with os.fdopen(report, "w", buffering=1) as replies:
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
                replies.write(json.dumps({"error": asdict(SentError.of(error))}) + "\n")
            else:
                replies.write('{"end": true}\n')
    if engine is not None:
        engine.close()


if __name__ == "__main__":
    main()
