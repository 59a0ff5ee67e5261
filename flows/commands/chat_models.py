"""The models that answer in `bnf chat`: a process for each, and where each has room."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bnf.process import module_command, module_environment, signal_group, stop_group
from evaluation.engines import environment
from evaluation.records import Record
from evaluation.types import Message
from flows.dag.hub import weights_bytes
from flows.display import size
from flows.errors import RecipeError
from tasks.child import ENVIRONMENT, TAIL_LINES, describe_exit, without_tracebacks

# Beside a model's weights: the cache of keys and values, what is computed on the way, and the process itself.
_BESIDE_WEIGHTS_BYTES = 3 << 30
# vLLM's own share of a GPU, where a recipe says none.
_GPU_SHARE = 0.9
_GRACE_S = 5.0


@dataclass(frozen=True)
class Event:
    """What a model's process says: it is ready, it wrote text, its answer ended, it failed, or it is gone. `text` is the piece, how the
    answer ended, or what went wrong. An `interrupt` is Ctrl-C, and no model's."""

    model: str
    kind: Literal["ready", "text", "end", "error", "gone", "interrupt"]
    text: str = ""


@dataclass(frozen=True)
class Opening:
    """How a model is opened: its folder, the engine with its options, and the devices of its process."""

    folder: Path
    engine: str
    date: str
    options: Mapping[str, int | float] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> Record:
        given: Record = {"model": str(self.folder), "engine": self.engine, "date": self.date, "options": dict(self.options)}
        return given


class ChatModel:
    """A model in a process of its own, in a session of its own: Ctrl-C reaches this process, which ends the answer and not the model.

    Args:
        events: what the process says is put here.
        log_path: its output is appended here.
    """

    def __init__(self, name: str, opening: Opening, events: queue.SimpleQueue[Event], log_path: Path) -> None:
        self.name, self.log_path, self._events = name, log_path, events
        log_path.parent.mkdir(parents=True, exist_ok=True)
        read_end, write_end = os.pipe()
        with log_path.open("ab") as log:
            self._from = log.tell()
            self._process = subprocess.Popen(
                module_command("evaluation.generation.answering"),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
                start_new_session=True,
                env={
                    **ENVIRONMENT,
                    **module_environment({**environment(opening.engine), **opening.variables, "BNF_REPORT_FD": str(write_end)}),
                },
            )
        os.close(write_end)
        threading.Thread(target=self._listen, args=(read_end,), daemon=True).start()
        self._send(opening.to_json())

    def ask(self, messages: Sequence[Message], sampling: Record) -> None:
        """Have it answer a conversation; what it says comes as events."""
        self._send({"messages": list(messages), "sampling": sampling})

    def stop(self) -> None:
        """Have it end its answer where it is."""
        self._send({"stop": True})

    def close(self) -> None:
        """End the process, and all that it started."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            stop_group(self._process, _GRACE_S)
        signal_group(self._process.pid, signal.SIGKILL)

    def why_gone(self) -> str:
        """How the process ended, with the last lines that it printed."""
        status = self._process.wait()
        with self.log_path.open("rb") as log:
            log.seek(self._from)
            lines = deque(log.read().decode(errors="replace").splitlines(), maxlen=400)
        last = "\n".join(f"  {line}" for line in without_tracebacks(lines)[-TAIL_LINES:])
        return f"{describe_exit(status)}; last lines:\n{last}\n  (whole log: {self.log_path})"

    def _send(self, message: Record) -> None:
        assert self._process.stdin is not None
        # A process that is gone says so by an event.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self, read_end: int) -> None:
        with os.fdopen(read_end) as events:
            for line in events:
                event = json.loads(line)
                self._events.put(Event(self.name, event["event"], event.get("text", "")))
        self._events.put(Event(self.name, "gone"))


def openings(
    folders: Mapping[str, Path],
    engine: str,
    date: str,
    options: Mapping[str, int | float],
    gpus: Sequence[int],
    free_memory: int | None,
) -> dict[str, Opening]:
    """How each of the models is opened so that all have room at once: on GPUs of their own, or else together on the same.

    Args:
        folders: the models' folders by name.
        options: of the recipe's evaluation.
        gpus: the bytes of memory of each GPU; empty where the CPU computes.
        free_memory: bytes, where the CPU computes; None where the system doesn't say.

    Raises:
        RecipeError: they don't all fit.
    """
    if len(folders) == 1:
        return {name: Opening(folder, engine, date, options) for name, folder in folders.items()}
    weights = {name: weights_bytes(folder) for name, folder in folders.items()}
    needed = sum(weights.values()) + len(weights) * _BESIDE_WEIGHTS_BYTES
    if not gpus:
        if free_memory is not None and needed > free_memory:
            raise _no_room(needed, f"{size(free_memory)} are free")
        return {name: Opening(folder, engine, date, options) for name, folder in folders.items()}
    each = int(options.get("tensor_parallel_size", 1))
    if len(gpus) >= each * len(folders):
        visible = _visible_gpus(len(gpus))
        places = {name: visible[number * each : (number + 1) * each] for number, name in enumerate(folders)}
        return {
            name: Opening(folder, engine, date, options, {"CUDA_VISIBLE_DEVICES": ",".join(places[name])})
            for name, folder in folders.items()
        }
    memory = each * min(gpus[:each])
    share = options.get("gpu_memory_utilization", _GPU_SHARE) / len(folders)
    if max(weights.values()) + _BESIDE_WEIGHTS_BYTES > share * memory:
        raise _no_room(needed, f"there are {size(memory)}, of which each would have {size(share * memory)}")
    # vLLM takes its share whatever it needs; a model's own length may need a larger cache than that, and -1 is what fits.
    shared = {"max_model_len": -1, **options, "gpu_memory_utilization": round(share, 3)} if engine == "vllm" else options
    return {name: Opening(folder, engine, date, shared) for name, folder in folders.items()}


def _no_room(needed: int, there: str) -> RecipeError:
    return RecipeError(
        f"--model must be base or aligned where both models don't fit at once, got both, which need about {size(needed)}, and {there}; "
        "take one of them, or a machine with more memory"
    )


def _visible_gpus(number: int) -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(number)]
