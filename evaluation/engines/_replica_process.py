"""A replica's process: it reads requests from standard input, one JSON object a line, and replies on a pipe (`_replicas`)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import cast

from bnf.process import die_with_parent
from evaluation.engines import LikelihoodEngine, open_engine
from evaluation.engines._replicas import CORES, REPORT_FD
from evaluation.records import Record
from evaluation.types import Sampling


def main() -> None:
    die_with_parent()
    if (cores := os.environ.get(CORES)) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    engine: LikelihoodEngine | None = None
    with os.fdopen(int(os.environ[REPORT_FD]), "w", buffering=1) as replies:
        for line in sys.stdin:
            message = json.loads(line)
            try:
                if engine is None:
                    engine = cast(LikelihoodEngine, open_engine(message["name"], message["model"], **message["options"]))
                    found: Iterator[Record] = iter([{"version": engine.version, "max_model_len": engine.max_model_len}])
                else:
                    found = _do(engine, message)
                for reply in found:
                    replies.write(json.dumps(reply) + "\n")
            except Exception as error:
                replies.write(json.dumps({"error": str(error), "kind": type(error).__name__}) + "\n")
            else:
                replies.write('{"end": true}\n')
    if engine is not None:
        engine.close()


def _do(engine: LikelihoodEngine, message: Record) -> Iterator[Record]:
    if message["do"] == "reseed":
        engine.reseed(message["seed"])
    elif message["do"] == "generate":
        for index, found in engine.generate(message["prompts"], Sampling(**message["sampling"])):
            yield {"index": index, "found": [asdict(one) for one in found]}
    else:
        for index, (logp, is_greedy) in engine.loglikelihoods([(context, rest) for context, rest in message["pairs"]]):
            yield {"index": index, "logp": logp, "is_greedy": is_greedy}


if __name__ == "__main__":
    main()
