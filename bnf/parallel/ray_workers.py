"""Workers on Ray: on this machine, or on the nodes of a cluster. Ray places them, starts them again where they end, and ends them with this
process.

`start_workers` starts them, and `share_out` gives them tasks. Ray is an extra, so only the functions that need it import it.
"""

from __future__ import annotations

import logging
import os
import platform
import queue
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from bnf.host import own_cores
from bnf.parallel.cluster import Cluster, Machine
from bnf.parallel.code import code_digest
from bnf.parallel.sent_errors import SentError
from bnf.parallel.share import WorkerEnded
from bnf.parallel.worker_cores import stay_on_cores
from bnf.process import ROOT

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

# How often Ray starts a worker again. One that ends more often has a cause that another start doesn't mend.
_RESTARTS = 3
# What is under way at once; more goes to the disk. Ray's own share is a third of the machine's memory.
_OBJECT_STORE_BYTES = 1 << 28
# How long Ray waits for its own first process, in seconds; its default of 30 is too short for a machine at work.
START_SECONDS = "120"
_ASK_AGAIN_S = 1.0
_STOP_S = 10.0
# How long an address may take to answer at all. Ray's own patience with one where nothing listens is minutes.
_ANSWER_S = 10.0
# How long a worker that Ray hasn't placed yet may take before it is said that it waits.
_SAY_AFTER_S = 30.0
_PACKAGES = ("bnf", "evaluation", "data", "tasks")

A = TypeVar("A")
M = TypeVar("M")
R = TypeVar("R")
O = TypeVar("O")  # noqa: E741
M_in = TypeVar("M_in", contravariant=True)
R_out = TypeVar("R_out", covariant=True)


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


def connect(address: str) -> Cluster:
    """Connect this process to Ray, once.

    Args:
        address: `local` starts Ray on this machine, for as long as this process lives; `auto` is the cluster that runs on this machine;
            `ray://HOST:PORT` is one elsewhere. Nodes of a cluster get the project's code from here, and work in the folder that has it.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address that this process can join.
    """
    if find_spec("ray") is None:
        raise ValueError(
            f"ray.address must be none without the package ray, got {address}; .venv/bin/pip install 'ray[data]==2.60.0'"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if address == "local" or (address.startswith("ray://") and ("RAY_AUTH_TOKEN" in os.environ or token.exists())):
        # Ray of this machine alone has a token by default; to say so saves a warning. A client sends its token only where the mode is said.
        # A process of a cluster finds out by itself, but not where RAY_ADDRESS names the cluster. To say it there anyway would keep the
        # workers of a cluster without a token from this process.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if not ray.is_initialized():
        if address == "local":
            # Ray itself begins a task without end that takes too much memory.
            os.environ.setdefault("RAY_task_oom_retries", str(_RESTARTS))
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", START_SECONDS)
            ray.init(
                "local",
                num_cpus=len(own_cores()),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                logging_level=logging.WARNING,
            )
        else:
            _join(address)
    nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return Cluster(tuple(Machine(int(has.get("GPU", 0)), int(has.get("CPU", 0))) for has in nodes))


def _join(address: str) -> None:
    """Connect this process to a cluster that runs."""
    import ray
    from ray.exceptions import RayError

    try:
        socket.create_connection(_host_and_port(address), timeout=_ANSWER_S).close()
        with tempfile.TemporaryDirectory() as code:
            # In one folder, as they are here: a package finds another one's files beside its own.
            for package in _PACKAGES:
                shutil.copytree(ROOT / package, Path(code) / package, ignore=shutil.ignore_patterns("__pycache__"))
            ray.init(address, runtime_env={"working_dir": code}, logging_level=logging.WARNING)
    except (OSError, OverflowError, RuntimeError, RayError) as error:
        said = " ".join(str(error).split())[:400]
        named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else ""
        if named:
            said = f"the variable RAY_ADDRESS says {named}: {said}"
        ask = (
            ", or set RAY_AUTH_MODE=token where that cluster asks for one"
            if named and "RAY_AUTH_MODE" not in os.environ
            else ""
        )
        raise ValueError(
            f"ray.address must be that of a cluster that runs, got {address} ({said}); start one with `ray start --head`, and `ray start "
            f"--address=HOST:PORT` on its other nodes, or set ray.address to local{ask}"
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    # Ray has no public name for what `auto` stands for.
    from ray._private.services import canonicalize_bootstrap_address

    try:
        # With RAY_ADDRESS=local it stands for none.
        at = address if address.startswith("ray://") else canonicalize_bootstrap_address(address) or ""
        host, _, port = at.removeprefix("ray://").rpartition(":")
        return host.strip("[]"), int(port)
    except ValueError as error:
        raise ValueError(
            f"RAY_ADDRESS must be the HOST:PORT of a cluster with ray.address={address}, got {os.environ.get('RAY_ADDRESS')}; set it so, "
            "unset it for the cluster that runs on this machine, or set ray.address to local"
        ) from error


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
        num_cpus: without GPUs a worker stays on so many cores of its machine, on which no other worker is.
        variables: set before a worker's process starts.
    """
    import ray

    actor = ray.remote(_Actor).options(
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        max_restarts=_RESTARTS,
        # One gives what there is while others ask whether it is open, or close it.
        max_concurrency=4,
        runtime_env={"env_vars": {**variables, "OMP_NUM_THREADS": str(max(1, int(num_cpus)))}},
    )
    own = 0 if num_gpus else int(num_cpus)
    return [
        RayWorker(place, cast("ActorHandle[object]", actor.remote(place, opens, opening, code_digest(), own)))
        for place in range(1, number + 1)
    ]


class RayWorker(Generic[M, R, A]):
    """One of the workers, as its caller sees it. What it raises is raised here."""

    def __init__(self, number: int, actor: ActorHandle[object]) -> None:
        self._number, self._actor = number, actor
        self._about: A | None = None
        self._was_open = False

    def ready(self, until: Callable[[], bool]) -> bool:
        """Wait until it is open: it may be new, be started again, or wait for a place in the cluster.

        Raises:
            WorkerEnded: it has ended for good, or what it held when it ended can't be opened again.
            Exception: what fails where it first opens.
        """
        from ray.exceptions import ActorUnavailableError

        asked: ObjectRef[object] | None = None
        say_at_s: float | None = time.monotonic() + _SAY_AFTER_S
        while not until():
            asked = self._actor.about.remote() if asked is None else asked
            try:
                self._about = cast(A, self._get(asked, timeout_s=_ASK_AGAIN_S))
                self._was_open = True
                return True
            except ActorUnavailableError:
                asked = None
                time.sleep(_ASK_AGAIN_S)
            except TimeoutError:
                if say_at_s is not None and time.monotonic() > say_at_s:
                    print(f"worker {self._number} waits until Ray has a place for it, or still opens", flush=True)
                    say_at_s = None
            except (WorkerEnded, ConnectionError):
                raise
            except Exception as error:
                if not self._was_open:
                    raise
                # Memory that the one before it held may not be free yet. The others go on without it.
                self.end()
                raise WorkerEnded(f"worker {self._number} ended, and didn't open again ({error})") from error
        return False

    def about(self) -> A:
        """What its server said of itself when it was last `ready`; it waits until it is open where it never was."""
        if self._about is None:
            self.ready(lambda: False)
        return cast(A, self._about)

    def ask(self, message: M) -> Iterator[R]:
        """The replies to one message, as they come.

        Raises:
            WorkerEnded: the worker has ended in it. It may be there again: `ready` says so.
        """
        from ray.exceptions import RayError

        try:
            life, is_over = self._get(self._actor.start.remote(message)), False
            while not is_over:
                replies, is_over = cast(tuple[list[R], bool], self._get(self._actor.take.remote(life)))
                yield from replies
        except RayError as error:
            raise self._ended(error) from error

    def end(self) -> None:
        """End it, in order where it is open and does so within ten seconds."""
        import ray
        from ray.exceptions import RayError

        try:
            if self._about is not None:
                self._get(self._actor.close.remote(), timeout_s=_STOP_S)
        except Exception as error:
            # What it gave is there; the others are to be ended too.
            print(f"worker {self._number} ended out of order: {error}", flush=True)
        finally:
            try:
                ray.kill(self._actor, no_restart=True)
            except (RayError, OSError) as error:
                # The cluster may be gone, and the worker with it.
                print(f"worker {self._number} can't be ended: {error}", flush=True)

    def _get(self, reference: ObjectRef[object], timeout_s: float | None = None) -> object:
        import ray
        from ray.exceptions import ActorDiedError, GetTimeoutError, RayError, RayTaskError

        try:
            return ray.get(reference, timeout=timeout_s)
        except GetTimeoutError as error:
            raise TimeoutError from error
        except RayTaskError as error:
            cause = getattr(error, "cause", None)
            # Of what can't be sent Ray has the text.
            raise (RuntimeError(str(error)) if cause is None or isinstance(cause, RayError) else cause) from None
        except ActorDiedError as error:
            raise self._ended(error) from error
        except ConnectionError as error:
            raise ConnectionError(
                f"Ray's cluster must be there as long as a stage works, got a lost connection ({error}); start it again, and run again: "
                "what is complete stays"
            ) from error

    def _ended(self, error: Exception) -> WorkerEnded:
        from ray.exceptions import ActorUnavailableError

        said = "its process or its node is gone"
        if not isinstance(error, ActorUnavailableError):
            lines = [line.strip() for line in str(error).splitlines()]
            said = (" ".join(line for line in lines if "The actor" in line) or lines[0])[:400]
        return WorkerEnded(f"worker {self._number} ended ({said})")


class _End:
    """Stands behind the last reply to a message, with what has failed."""

    def __init__(self, failed: Exception | None) -> None:
        self.failed = failed


class _Actor(Generic[O, M, R, A]):
    """The worker's side. One thread opens what it holds and does all the work, as some libraries keep things by thread."""

    def __init__(self, number: int, opens: Callable[[O], Server[M, R, A]], opening: O, code: str, num_cores: int) -> None:
        self._number, self._opens, self._opening, self._code = number, opens, opening, code
        # Cores are held for as long as the files are open, so also a worker that is killed gives its own back.
        self._cores = stay_on_cores(num_cores)
        # One that is started again is another one.
        self._life = uuid.uuid4().hex
        self._server: Server[M, R, A] | None = None
        self._failed: Exception | None = None
        self._is_open = threading.Event()
        self._messages: queue.Queue[tuple[M, queue.Queue[R | _End]]] = queue.Queue()
        self._replies: queue.Queue[R | _End] = queue.Queue()
        threading.Thread(target=self._serve, daemon=True).start()

    def __repr__(self) -> str:
        """What Ray writes before the lines that it passes on."""
        return f"worker {self._number}"

    def about(self) -> A:
        """What the server says of itself, once it is open. What fails then is raised here: at its start it would come back as text."""
        self._is_open.wait()
        if self._failed is not None:
            raise self._failed
        assert self._server is not None
        return self._server.about

    def start(self, message: M) -> str:
        """Begin to work on a message; `take` gives the replies. The one before is left off."""
        self.about()
        self._replies = queue.Queue()
        self._messages.put((message, self._replies))
        return self._life

    def take(self, life: str) -> tuple[list[R], bool]:
        """The replies since the last time, and whether that was all; it waits up to a second for one."""
        if life != self._life:
            raise WorkerEnded(f"worker {self._number} was started again")
        taken: list[R] = []
        with suppress(queue.Empty):
            reply = self._replies.get(timeout=_ASK_AGAIN_S)
            while not isinstance(reply, _End):
                taken.append(reply)
                reply = self._replies.get_nowait()
            if reply.failed is None:
                return taken, True
            if not taken:
                raise reply.failed
            self._replies.put(reply)
        return taken, False

    def close(self) -> None:
        """Close what the worker holds."""
        if self._server is not None:
            self._server.close()

    def _serve(self) -> None:
        try:
            if (own := code_digest()) != self._code:
                raise ValueError(
                    f"every node of a Ray cluster must compute with {self._code}, got {own}; install the same versions"
                )
            self._server = self._opens(self._opening)
            print(f"open on {platform.node()}", flush=True)
        except SystemExit as error:
            self._failed = RuntimeError(
                f"what worker {self._number} opens must not end it, got exit {error.code}; its log has why"
            )
        except BaseException as error:
            self._failed = SentError.of(error).error()
        self._is_open.set()
        while self._server is not None:
            message, replies = self._messages.get()
            failed = None
            try:
                for reply in self._server(message):
                    if replies is not self._replies:
                        break
                    replies.put(reply)
            except BaseException as error:
                # A panic of a library in Rust is no Exception; the caller waits for an end.
                failed = SentError.of(error).error()
            replies.put(_End(failed))
