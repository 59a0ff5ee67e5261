"""Replicas: one engine several times, each with GPUs or cores of its own, that share out prompts.

`Replicas` is an engine. It gives each replica a chunk of prompts after the other. Where a replica ends, the others take over what it had
not completed. A replica by itself is an engine too: what its caller asks of it depends on no other replica.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar, Literal

from bnf.host import own_cores
from bnf.model.device import devices
from bnf.parallel.node_folders import NODE_FOLDER
from bnf.parallel.ray_workers import RayWorker, connect, start_workers
from bnf.parallel.sent_errors import SentError
from bnf.parallel.share import WorkerEnded, end_all, share_out
from bnf.plugins import load
from bnf.process import CORES_VARIABLE, module_command, module_environment
from evaluation.engines import ENGINES, Completed, Prompt, Received, check_room, environment, unheard
from evaluation.engines._replica_process import REPORT_FD, Opening, installed, open_on_node
from evaluation.records import Record
from evaluation.types import Generation, Sampling

# A chunk of prompts fills a replica; where there are few, each replica gets one. Smaller chunks would cost each token more time: they fill
# matrix products less, and each of them ends with a few long completions alone.
_CHUNK_PROMPTS = 256
_STOP_S = 10.0


class _Asked(ABC):
    """A replica as an engine: it is asked by messages. What it raises is raised here."""

    takes: ClassVar[Literal["ids", "messages"]] = "ids"
    supports_choices: ClassVar[bool] = True
    version: str
    max_model_len: int | None
    # Of the next call of `generate`. It goes with the prompts, so a replica that is started again between the two has it too.
    _seed: int | None = None

    def __init__(self, number: int, alike: _Alike) -> None:
        self.number, self._alike = number, alike

    def ready(self, until: Callable[[], bool]) -> bool:
        """As `bnf.parallel.share` has it.

        Raises:
            ValueError: as the engine's `open`, or its engine isn't that of the others.
        """
        about = self._opened(until)
        if about is None:
            return False
        self._alike.require(self.number, about)
        self.version, self.max_model_len = about["version"], about["max_model_len"]
        return True

    @abstractmethod
    def _opened(self, until: Callable[[], bool]) -> Record | None:
        """What its engine says of itself (`OpenEngine.about`), once its model is loaded; None where `until()` holds before."""

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _ask(self, message: Record) -> Iterator[Record]:
        """The replies to a message (`evaluation.engines._replica_process`)."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received = unheard
    ) -> Generator[Completed, None, None]:
        asked = {
            "do": "generate",
            "prompts": [list(prompt) for prompt in prompts],
            "sampling": asdict(sampling),
            "seed": self._seed,
        }
        for reply in self._ask(asked):
            found = [Generation(**one) for one in reply["found"]]
            received(reply["index"], found)
            yield reply["index"], found
        self._seed = None

    def loglikelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        asked = {"do": "loglikelihoods", "pairs": [[list(context), list(rest)] for context, rest in pairs]}
        for reply in self._ask(asked):
            yield reply["index"], (reply["logp"], reply["is_greedy"])

    def reseed(self, seed: int) -> None:
        self._seed = seed


class _Alike:
    """Holds what the first replica that opened said of its engine, and refuses another one that says otherwise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: tuple[int, Record] | None = None

    def require(self, number: int, about: Record) -> None:
        with self._lock:
            self._first = self._first or (number, about)
            first, expected = self._first
        for key, value in about.items():
            if value != expected[key]:
                raise ValueError(
                    f"every replica must have the same {key}, got {expected[key]} on replica {first + 1} and {value} on replica "
                    f"{number + 1}; install the same versions on all nodes"
                )


class ProcessReplica(_Asked):
    """One that is a process of this machine."""

    def __init__(self, opening: Opening, number: int, count: int, alike: _Alike) -> None:
        super().__init__(number, alike)
        self._about: Record | None = None
        read_end, write_end = os.pipe()
        self._process = subprocess.Popen(
            module_command("evaluation.engines._replica_process"),
            stdin=subprocess.PIPE,
            pass_fds=[write_end],
            env=module_environment({**_place(opening.options, number, count), REPORT_FD: str(write_end)}),
        )
        os.close(write_end)
        self._replies = os.fdopen(read_end, "rb")
        self._send(asdict(opening))

    def _opened(self, until: Callable[[], bool]) -> Record | None:
        if self._about is None:
            (self._about,) = self._read()
        if self._process.poll() is not None:
            raise self._ended()
        return None if until() else self._about

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._replies.close()

    def _ask(self, message: Record) -> Iterator[Record]:
        self._send(message)
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
            if not line.endswith(b"\n"):
                break  # it was killed as it wrote
            reply = json.loads(line)
            if "error" in reply:
                raise SentError(**reply["error"]).error()
            if reply.get("end"):
                return
            yield reply
        raise self._ended()

    def _ended(self) -> WorkerEnded:
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        how += ", often the kernel's out-of-memory killer" if status == -signal.SIGKILL else ""
        return WorkerEnded(f"replica {self.number + 1} of the engine ended ({how})")


class RayReplica(_Asked):
    """One that Ray has placed on a node."""

    def __init__(self, worker: RayWorker[Record, Record, Record], number: int, alike: _Alike) -> None:
        super().__init__(number, alike)
        self._worker = worker

    def _opened(self, until: Callable[[], bool]) -> Record | None:
        return self._worker.about() if self._worker.ready(until) else None

    def close(self) -> None:
        self._worker.end()

    def _ask(self, message: Record) -> Iterator[Record]:
        return self._worker.ask(message)


class Replicas:
    """Several replicas as one engine: processes of this machine, or with `ray` workers of a cluster.

    Greedy completions are shared out, and those with seeds of their own. What else is sampled in one call depends on its seed and on the
    call's prompts alone, so one replica does all of it; a caller with several such calls shares them out over `alive` itself.
    """

    takes: ClassVar[Literal["ids", "messages"]] = "ids"
    supports_choices: ClassVar[bool] = True

    def __init__(self, opening: Opening, count: int, ray: str | None) -> None:
        alike = _Alike()
        self.alive: list[_Asked] = (
            [ProcessReplica(opening, number, count, alike) for number in range(count)]
            if ray is None
            else [*_on_ray(ray, opening, count, alike)]
        )
        self._batch = load(ENGINES, opening.name).BATCH
        every = [*self.alive]
        try:
            # All load at once. On Ray the first that is there begins, as another one may wait for a place.
            ((self.version, self.max_model_len),) = share_out(
                self.alive, [None], lambda replica, _: [(replica.version, replica.max_model_len)]
            )
        except BaseException:
            end_all(replica.close for replica in every)
            raise

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received = unheard
    ) -> Generator[Completed, None, None]:
        whole = [list(range(len(prompts)))]
        seeds = sampling.seeds
        is_whole = sampling.temperature > 0 and seeds is None
        chunks = whole if is_whole else self._chunks([len(prompt) for prompt in prompts])
        done: set[int] = set()

        def work(replica: _Asked, chunk: list[int]) -> Iterator[Completed]:
            # Where a replica has ended, the whole chunk is done again: what is computed together decides how numbers are rounded.
            asked = sampling if seeds is None else replace(sampling, seeds=[seeds[index] for index in chunk])
            for place, found in replica.generate([prompts[index] for index in chunk], asked):
                if (index := chunk[place]) not in done:
                    done.add(index)
                    received(index, found)
                    yield index, found

        yield from share_out(self.alive, chunks, work)

    def loglikelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        done: set[int] = set()

        def work(replica: _Asked, chunk: list[int]) -> Iterator[tuple[int, tuple[float, bool]]]:
            for place, found in replica.loglikelihoods([pairs[index] for index in chunk]):
                if (index := chunk[place]) not in done:
                    done.add(index)
                    yield index, found

        yield from share_out(self.alive, self._chunks([len(context) + len(rest) for context, rest in pairs]), work)

    def reseed(self, seed: int) -> None:
        for replica in self.alive:
            replica.reseed(seed)

    def close(self) -> None:
        end_all(replica.close for replica in self.alive)

    def _chunks(self, lengths: Sequence[int]) -> list[list[int]]:
        """The prompts in chunks of all lengths. What the engine alone would compute together stays together, as it is rounded together."""
        order = sorted(range(len(lengths)), key=lambda index: lengths[index])
        together = [order[start : start + self._batch] for start in range(0, len(order), self._batch)]
        # Where none is left, sharing out says so.
        size = max(1, min(_CHUNK_PROMPTS, -(-len(order) // max(1, len(self.alive)))))
        number = -(-len(together) // -(-size // self._batch)) if together else 0
        return [[index for batch in together[first::number] for index in batch] for first in range(number)]


def _on_ray(address: str, opening: Opening, count: int, alike: _Alike) -> list[RayReplica]:
    cluster = connect(address)
    size = int(str(opening.options.get("tensor_parallel_size", 1)))
    check_room(address, cluster, count, size)
    workers = start_workers(
        count,
        open_on_node,
        # A worker's own folder is another one.
        (NODE_FOLDER.get(), replace(opening, model=str(Path(opening.model).absolute())), installed(opening.name)),
        # Beside a GPU the cores only prepare; without one they compute.
        **(
            {"num_gpus": size, "num_cpus": 0}
            if cluster.num_gpus
            else {"num_gpus": 0, "num_cpus": cluster.cores_each(min(count, cluster.room_for(size)))}
        ),
        variables=environment(opening.name),
    )
    return [RayReplica(worker, number, alike) for number, worker in enumerate(workers)]


def _place(options: Mapping[str, object], number: int, count: int) -> dict[str, str]:
    """The variables that give a replica its GPUs, or without GPUs its cores."""
    if found := len(devices()):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        every = visible.split(",") if visible else [str(device) for device in range(found)]
        size = int(str(options.get("tensor_parallel_size", 1)))
        return {"CUDA_VISIBLE_DEVICES": ",".join(every[number * size : (number + 1) * size])}
    cores = own_cores()
    share = cores[len(cores) * number // count : len(cores) * (number + 1) // count]
    return {CORES_VARIABLE: ",".join(map(str, share)), "OMP_NUM_THREADS": str(len(share))}
