"""The process in which a model answers for `bnf chat`: vLLM's variables must be set before Python starts, and two models never share one.

Standard input has one JSON object a line: first how the model is opened, then conversations to answer, and `stop`, which ends an answer
where it is. The pipe that `BNF_REPORT_FD` names gets one event a line: `ready`, `text`, `end`, `error`.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from typing import TextIO

from bnf.process import die_with_parent, take_cores
from evaluation.answers.thoughts import MARKERS, OTHER_MARKERS
from evaluation.engines import open_engine
from evaluation.generation.streaming import stream
from evaluation.records import Record
from evaluation.types import Sampling


def main() -> None:
    # os.fdopen first: whatever a library prints to standard output later can't be taken for an event.
    events = os.fdopen(int(os.environ["BNF_REPORT_FD"]), "w", buffering=1)
    die_with_parent()
    take_cores()
    asked: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
    stop = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if message.get("stop"):
                stop.set()
            else:
                stop.clear()
                asked.put(message)
        stop.set()
        asked.put(None)

    threading.Thread(target=listen, daemon=True).start()
    opening = asked.get()
    if opening is None:
        return
    try:
        engine = open_engine(opening["engine"], opening["model"], **opening["options"])
        # As `generate` renders the prompts of benchmarks.
        from bnf.data.rendering import load_tokenizer, render_prompt

        tokenizer = load_tokenizer(opening["model"], opening["date"])
        kept = [marker for pair in (MARKERS, *OTHER_MARKERS) for marker in pair]
    except Exception as error:
        _failed(events, error)
        return
    _say(events, {"event": "ready"})
    while (turn := asked.get()) is not None:
        try:
            prompt_ids = render_prompt(tokenizer, turn["messages"], own_turns="as_written", kept=kept)
            for piece in stream(engine, prompt_ids, Sampling(**turn["sampling"]), stop.is_set):
                if piece.text:
                    _say(events, {"event": "text", "text": piece.text})
                if piece.finish_reason is not None:
                    _say(events, {"event": "end", "text": piece.finish_reason})
        except Exception as error:
            _failed(events, error)
    engine.close()


def _say(events: TextIO, event: Record) -> None:
    events.write(json.dumps(event) + "\n")


def _failed(events: TextIO, error: Exception) -> None:
    traceback.print_exc()
    _say(events, {"event": "error", "text": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
