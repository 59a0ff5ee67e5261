"""Workers on Ray: on this machine, or on the nodes of a cluster. Ray places them, starts them again where they end, and ends them with this
process.

`start_workers` gives them; `share_out` shares tasks out over them. Ray itself is imported where a function needs it: it is an extra.
"""

from __future__ import annotations

import logging
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from bnf.parallel.code import code_digest
from bnf.parallel.share import WorkerEnded
from bnf.process import ROOT

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

# How often Ray starts a worker again. One that ends more often has a cause that another start doesn't mend.
_RESTARTS = 3
# What is sent and given back is small; Ray's own share is a third of the machine's memory.
_OBJECT_STORE_BYTES = 1 << 28
_ASK_AGAIN_S = 1.0
_STOP_S = 10.0
# How long a worker that Ray hasn't placed yet may take before it is said that it waits.
_SAY_AFTER_S = 30.0
_PACKAGES = ("bnf", "evaluation", "data", "tasks")

A = TypeVar("A")
M = TypeVar("M")
R = TypeVar("R")
O = TypeVar("O")  # noqa: E741
M_in = TypeVar("M_in", contravariant=True)
R_out = TypeVar("R_out", covariant=True)
# Replies, whether they are the last ones, and why there are no more where the work has failed.
_Taken = tuple[list[R], bool, Exception | None]


class Server(Protocol[M_in, R_out, A]):
    """What a worker holds once it is open, such as a loaded model.

    Attributes:
        about: what its caller has to know of it.
    """

    about: A

    def __call__(self, message: M_in) -> Iterator[R_out]:
        """The replies to one message, as they are there."""
        ...

    def close(self) -> None:
        """Called before the worker ends."""
        ...


@dataclass(frozen=True)
class Cluster:
    """What Ray's nodes have together, and how many there are."""

    num_gpus: int
    num_cpus: int
    num_nodes: int


def connect(address: str) -> Cluster:
    """Connect this process to Ray, once.

    Args:
        address: `local` starts Ray on this machine, for as long as this process lives; `auto` is the cluster that runs on this machine;
            `ray://HOST:PORT` is one elsewhere. Nodes of a cluster get the project's code from here.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address.
    """
    if find_spec("ray") is None:
        raise ValueError(
            f"ray.address must be none without the package ray, got {address}; .venv/bin/pip install 'ray[data]==2.60.0'"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_TOKEN" in os.environ or Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser().exists():
        # A client of a cluster with a token sends it only where the mode is said.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if not ray.is_initialized():
        try:
            if address == "local":
                ray.init(
                    "local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, logging_level=logging.WARNING
                )
            else:
                # In one folder, as plug-ins are looked for beside `bnf`: `py_modules` would have one for each package.
                others = [f"/{path.name}" for path in ROOT.iterdir() if path.name not in _PACKAGES]
                code = {"working_dir": str(ROOT), "excludes": others}
                ray.init(address, runtime_env=code, logging_level=logging.WARNING)
        except ConnectionError as error:
            raise ValueError(
                f"ray.address must be that of a cluster that runs, got {address} ({error}); start it with `ray start --head` there and "
                "`ray start --address=HOST:PORT` on its other nodes, or set ray.address to local"
            ) from error
    has = ray.cluster_resources()
    return Cluster(int(has.get("GPU", 0)), int(has.get("CPU", 0)), sum(node["Alive"] for node in ray.nodes()))


def start_workers(
    number: int,
    opens: Callable[[O], Server[M, R, A]],
    opening: O,
    *,
    num_gpus: float,
    num_cpus: float,
    variables: Mapping[str, str],
) -> list[RayWorker[M, R, A]]:
    """So many workers, each with GPUs and cores of its own, that hold what `opens(opening)` gives. All of them open at once.

    Args:
        opens: a function of a module of the project.
        variables: set before a worker's process starts.
    """
    import ray

    actor = ray.remote(_Actor).options(
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        max_restarts=_RESTARTS,
        # One thread works, another one gives what it has.
        max_concurrency=2,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(max(1, int(num_cpus))), **variables}},
    )
    return [
        RayWorker(place + 1, cast("ActorHandle[object]", actor.remote(opens, opening, code_digest())))
        for place in range(number)
    ]


def first_open(workers: Sequence[RayWorker[M, R, A]]) -> int:
    """Wait until one of the workers is open, or has failed to open, and return its place. Others may wait for a node that never comes."""
    import ray
    from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

    asked = {worker._actor.about.remote(): place for place, worker in enumerate(workers)}
    while True:
        (first,), _ = ray.wait(list(asked))
        place = asked.pop(first)
        try:
            ray.get(first)
        except ActorUnavailableError:
            # Its node has gone meanwhile, or is about to.
            time.sleep(_ASK_AGAIN_S)
            asked[workers[place]._actor.about.remote()] = place
        except (RayTaskError, RayActorError):
            return place
        else:
            return place


class RayWorker(Generic[M, R, A]):
    """One of the workers, as its caller sees it. What it raises is raised here."""

    def __init__(self, number: int, actor: ActorHandle[object]) -> None:
        self._number, self._actor = number, actor

    def ready(self, until: Callable[[], bool]) -> bool:
        """Wait until it is open: it may be new, be started again, or wait for a place in the cluster."""
        from ray.exceptions import ActorUnavailableError

        asked: ObjectRef[object] | None = None
        say_at_s: float | None = time.monotonic() + _SAY_AFTER_S
        while not until():
            asked = self._actor.about.remote() if asked is None else asked
            try:
                self._get(asked, timeout_s=_ASK_AGAIN_S)
                return True
            except ActorUnavailableError:
                asked = None
                time.sleep(_ASK_AGAIN_S)
            except TimeoutError:
                if say_at_s is not None and time.monotonic() > say_at_s:
                    print(f"worker {self._number} waits until Ray has a place for it, or still opens", flush=True)
                    say_at_s = None
        return False

    def about(self) -> A:
        """What its server says of itself, once it is open."""
        while True:
            self.ready(lambda: False)
            try:
                return cast(A, self._get(self._actor.about.remote()))
            except WorkerEnded:
                continue

    def ask(self, message: M) -> Iterator[R]:
        """The replies to one message, as they come.

        Raises:
            WorkerEnded: the worker has ended in it. It may be there again: `ready` says so.
        """
        from ray.exceptions import ActorUnavailableError

        try:
            token, is_over = self._get(self._actor.start.remote(message)), False
            while not is_over:
                replies, is_over, failed = cast(_Taken[R], self._get(self._actor.take.remote(token)))
                yield from replies
                if failed is not None:
                    raise failed
        except ActorUnavailableError as error:
            raise self._ended(error) from error

    def end(self) -> None:
        """End it, in order where it does so within ten seconds."""
        import ray
        from ray.exceptions import RayActorError

        with suppress(RayActorError, RuntimeError, TimeoutError):
            self._get(self._actor.close.remote(), timeout_s=_STOP_S)
        ray.kill(self._actor, no_restart=True)

    def _get(self, reference: ObjectRef[object], timeout_s: float | None = None) -> object:
        import ray
        from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

        try:
            return ray.get(reference, timeout=timeout_s)
        except GetTimeoutError as error:
            raise TimeoutError from error
        except RayTaskError as error:
            raise error.cause from None
        except ActorDiedError as error:
            raise self._ended(error) from error

    def _ended(self, error: Exception) -> WorkerEnded:
        said = (
            " ".join(line.strip() for line in str(error).splitlines() if "The actor" in line) or str(error).partition("\n")[0]
        )
        return WorkerEnded(f"worker {self._number} ended ({said[:400]})")


class _Actor(Generic[O, M, R, A]):
    """The worker's side."""

    def __init__(self, opens: Callable[[O], Server[M, R, A]], opening: O, code: str) -> None:
        self._opens, self._opening, self._code = opens, opening, code
        self._server: Server[M, R, A] | None = None
        self._opens_once = threading.Lock()
        self._token = 0
        self._replies: queue.Queue[_Taken[R]] = queue.Queue()

    def about(self) -> A:
        """Opens what the worker holds, here and not at its start: an error at its start comes back as text alone."""
        with self._opens_once:
            if self._server is None:
                if (own := code_digest()) != self._code:
                    raise ValueError(
                        f"every node of a Ray cluster must compute with {self._code}, got {own}; install the same versions"
                    )
                self._server = self._opens(self._opening)
                # Ray shows it where the run is, with the number of this process.
                print(f"open on {platform.node()}", flush=True)
        return self._server.about

    def start(self, message: M) -> int:
        """Begin to work on a message; `take` gives the replies."""
        self.about()
        assert self._server is not None
        self._token += 1
        self._replies = queue.Queue()
        threading.Thread(target=self._work, args=(self._server, message, self._replies), daemon=True).start()
        return self._token

    def take(self, token: int) -> _Taken[R]:
        """The replies since the last time; it waits up to a second for one."""
        if token != self._token:
            raise WorkerEnded("a worker was started again")
        taken: list[R] = []
        is_over, failed = False, None
        with suppress(queue.Empty):
            replies, is_over, failed = self._replies.get(timeout=_ASK_AGAIN_S)
            while not is_over:
                taken += replies
                replies, is_over, failed = self._replies.get_nowait()
        return taken, is_over, failed

    def close(self) -> None:
        """Close what the worker holds."""
        if self._server is not None:
            self._server.close()

    @staticmethod
    def _work(server: Server[M, R, A], message: M, replies: queue.Queue[_Taken[R]]) -> None:
        failed = None
        try:
            for reply in server(message):
                replies.put(([reply], False, None))
        except Exception as error:
            failed = error
        replies.put(([], True, failed))
