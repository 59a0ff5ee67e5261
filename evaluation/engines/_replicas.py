"""Replicas: processes of one engine, each with GPUs or cores of its own, that share out prompts.

`Replicas` is an engine. It gives each replica a chunk of prompts after the other. Where a replica's process ends, the others take over what
it had not completed. A replica by itself is an engine too: what its caller asks of it depends on no other replica.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from bnf.model.device import devices
from bnf.process import module_command, module_environment
from evaluation.engines import Completed, Engine, Prompt, Received, own_cores, unheard
from evaluation.records import Record
from evaluation.types import Generation, Sampling

REPORT_FD, CORES = "BNF_REPLICA_FD", "BNF_REPLICA_CORES"
# A chunk of prompts fills a replica, and where there are few each replica gets two, so that none waits long for the last. Of 160 prompts
# on a core, chunks of 20 take 12 % more processor time than all at once, chunks of 40 take 2 %.
_CHUNK_PROMPTS = 256
_CHUNKS_EACH = 2
_STOP_S = 10.0

E = TypeVar("E", bound=Engine)
T = TypeVar("T")
R = TypeVar("R")


class ReplicaEnded(RuntimeError):
    """A replica's process has ended before it was told to."""


class Replica:
    """One of the processes. It opens the named engine; what it raises is raised here."""

    takes: ClassVar[Literal["ids", "messages"]] = "ids"
    supports_choices: ClassVar[bool] = True
    version: str

    def __init__(self, name: str, model: Path, options: Mapping[str, object], number: int, count: int) -> None:
        self.number = number
        self.max_model_len: int | None = None
        read_end, write_end = os.pipe()
        self._process = subprocess.Popen(
            module_command("evaluation.engines._replica_process"),
            stdin=subprocess.PIPE,
            pass_fds=[write_end],
            env=module_environment({**_place(options, number, count), REPORT_FD: str(write_end)}),
        )
        os.close(write_end)
        self._replies = os.fdopen(read_end, "rb")
        self._send({"name": name, "model": str(model), "options": dict(options)})

    def wait(self) -> None:
        """Until its model is loaded: all replicas load at once."""
        (opened,) = self._read()
        self.version, self.max_model_len = opened["version"], opened["max_model_len"]

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received = unheard
    ) -> Generator[Completed, None, None]:
        for reply in self._ask("generate", prompts=[list(prompt) for prompt in prompts], sampling=asdict(sampling)):
            found = [Generation(**one) for one in reply["found"]]
            received(reply["index"], found)
            yield reply["index"], found

    def loglikelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        for reply in self._ask("loglikelihoods", pairs=[[list(context), list(rest)] for context, rest in pairs]):
            yield reply["index"], (reply["logp"], reply["is_greedy"])

    def reseed(self, seed: int) -> None:
        list(self._ask("reseed", seed=seed))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._replies.close()

    def _ask(self, do: str, **what: object) -> Iterator[Record]:
        self._send({"do": do, **what})
        replies = self._read()
        try:
            # Not `yield from`, which would close the replies with this.
            for reply in replies:  # noqa: UP028
                yield reply
        finally:
            # A caller that stops early leaves no replies for the next one.
            for _ in replies:
                pass

    def _send(self, message: Record) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def _read(self) -> Iterator[Record]:
        """The replies to one message."""
        for line in self._replies:
            reply = json.loads(line)
            if "error" in reply:
                raise _ERRORS.get(reply["kind"], RuntimeError)(reply["error"])
            if reply.get("end"):
                return
            yield reply
        raise self._ended()

    def _ended(self) -> ReplicaEnded:
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        how += ", often the kernel's out-of-memory killer" if status == -signal.SIGKILL else ""
        return ReplicaEnded(f"replica {self.number + 1} of the engine ended ({how})")


_ERRORS: dict[str, type[Exception]] = {"ValueError": ValueError, "MemoryError": MemoryError}


class Replicas:
    """Several replicas as one engine.

    Greedy completions are shared out. What is sampled in one call depends on its seed and on the call's prompts alone, so one replica does
    all of it; a caller with several such calls shares them out over `alive` itself.
    """

    takes: ClassVar[Literal["ids", "messages"]] = "ids"
    supports_choices: ClassVar[bool] = True

    def __init__(self, name: str, model: Path, count: int, options: Mapping[str, object]) -> None:
        self.alive = [Replica(name, model, options, number, count) for number in range(count)]
        for replica in self.alive:
            replica.wait()
        self.version, self.max_model_len = self.alive[0].version, self.alive[0].max_model_len

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received = unheard
    ) -> Generator[Completed, None, None]:
        if sampling.temperature > 0:
            yield from self.alive[0].generate(prompts, sampling, received)
            return

        def work(replica: Engine, chunk: list[int]) -> Iterator[Completed]:
            # What is left of the chunk goes to another replica, where this one ends.
            asked = list(chunk)
            for place, found in replica.generate([prompts[index] for index in asked], sampling):
                chunk.remove(asked[place])
                received(asked[place], found)
                yield asked[place], found

        yield from share_out(self.alive, self._chunks(len(prompts)), work)

    def loglikelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        def work(replica: Replica, chunk: list[int]) -> Iterator[tuple[int, tuple[float, bool]]]:
            asked = list(chunk)
            for place, found in replica.loglikelihoods([pairs[index] for index in asked]):
                chunk.remove(asked[place])
                yield asked[place], found

        yield from share_out(self.alive, self._chunks(len(pairs)), work)

    def reseed(self, seed: int) -> None:
        for replica in self.alive:
            replica.reseed(seed)

    def close(self) -> None:
        for replica in self.alive:
            replica.close()

    def _chunks(self, total: int) -> list[list[int]]:
        size = max(1, min(_CHUNK_PROMPTS, -(-total // (_CHUNKS_EACH * len(self.alive)))))
        # Neighbours are often of one kind and length: each chunk gets some of all.
        number = -(-total // size)
        return [list(range(first, total, number)) for first in range(number)]


def share_out(engines: list[E], tasks: Iterable[T], work: Callable[[E, T], Iterable[R]]) -> Generator[R, None, None]:
    """What `work` yields for all tasks, in the order in which it is there. Each engine does a task at a time, in a thread of its own.

    A replica that has ended is taken from `engines`, and its task is done by another one.

    Raises:
        ReplicaEnded: all have ended.
    """
    waiting = deque(tasks)
    while waiting:
        yield from _round(engines, waiting, work)


def _round(engines: list[E], waiting: deque[T], work: Callable[[E, T], Iterable[R]]) -> Generator[R, None, None]:
    """One thread for each engine, until no task waits; a task is put back where a replica ended."""
    told: queue.Queue[tuple[E, R | None, Exception | None, bool]] = queue.Queue()
    stop = threading.Event()

    def go_on(engine: E) -> None:
        failed = None
        try:
            while not stop.is_set() and waiting:
                try:
                    task = waiting.popleft()
                except IndexError:
                    break
                try:
                    for one in work(engine, task):
                        told.put((engine, one, None, False))
                except ReplicaEnded:
                    waiting.append(task)
                    raise
        except Exception as error:
            failed = error
        told.put((engine, None, failed, True))

    threads = [threading.Thread(target=go_on, args=(engine,), daemon=True) for engine in engines]
    for thread in threads:
        thread.start()
    running, ended, error = len(threads), None, None
    try:
        while running:
            engine, one, failed, is_end = told.get()
            if not is_end:
                yield one  # type: ignore[misc]
                continue
            running -= 1
            if isinstance(failed, ReplicaEnded):
                engines.remove(engine)
                ended = failed
                print(f"{failed}; the others take over its prompts", file=sys.stderr, flush=True)
            elif failed is not None:
                error = error or failed
                stop.set()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if error is not None:
        raise error
    if ended is not None and not engines:
        raise ended


def _place(options: Mapping[str, object], number: int, count: int) -> dict[str, str]:
    """The variables that give a replica its GPUs, or without GPUs its cores."""
    if found := len(devices()):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        every = visible.split(",") if visible else [str(device) for device in range(found)]
        size = int(str(options.get("tensor_parallel_size", 1)))
        return {"CUDA_VISIBLE_DEVICES": ",".join(every[number * size : (number + 1) * size])}
    cores = own_cores()
    share = cores[len(cores) * number // count : len(cores) * (number + 1) // count]
    return {CORES: ",".join(map(str, share)), "OMP_NUM_THREADS": str(len(share))}
