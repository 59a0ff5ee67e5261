"""Workers on Ray: on this machine, or on the nodes of a cluster. Ray places them, starts them again where they end, and ends them with this
process.

`start_workers` starts them, and `share_out` gives them tasks. Ray is an extra, so only the functions that need it import it.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from bnf.host import own_cores
from bnf.parallel.cluster import BEGAN_AT, Cluster, Machine, check_same_kind
from bnf.parallel.code import code_digest
from bnf.parallel.ray_actor import Server, WorkerActor
from bnf.parallel.share import WorkerEnded
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


def connect(address: str) -> Cluster:
    """Connect this process to Ray, once. With `auto` the output says which cluster that is.

    Args:
        address: `local` starts Ray on this machine, for as long as this process lives; `auto` is the cluster that runs on this machine;
            `ray://HOST:PORT` is one elsewhere. Nodes of a cluster get the project's code from here, and work in the folder that has it.

    Raises:
        ValueError: Ray is not installed, there is no cluster at the address that this process can join, or `auto` stands for several.
    """
    if find_spec("ray") is None:
        raise ValueError(
            f"ray.address must be none without the package ray, got {address}; .venv/bin/pip install 'ray[data]==2.60.0'"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    may_name = address.startswith("ray://") or (_is_found(address) and BEGAN_AT in os.environ)
    if address == "local" or (may_name and ("RAY_AUTH_TOKEN" in os.environ or token.exists())):
        # Ray of this machine alone has a token by default; to say so saves a warning. A client sends its token only where the mode is said.
        # A process of a cluster finds out by itself where Ray finds the cluster, but not where the cluster is named: so `_taken` needs it
        # here. Where RAY_ADDRESS names it, to say it would keep the workers of a cluster without a token from this process.
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
    machines = tuple(Machine(int(has.get("GPU", 0)), int(has.get("CPU", 0))) for has in nodes)
    return Cluster(machines, ray.get_runtime_context().gcs_address if address == "auto" else "")


def _is_found(address: str) -> bool:
    """Whether Ray is to look for the cluster on this machine: nothing names it."""
    return address == "auto" and not os.environ.get("RAY_ADDRESS")


def _taken() -> str:
    """What Ray is asked for where it is to look for the cluster itself: `auto`, or of several that run here the one on which the run began.

    Raises:
        ValueError: several run here and no run began on one of them; or a run began on one that isn't here any more.
    """
    # Ray would take the one that was started last, or any of them. It has no public name for their list.
    from ray._private.services import canonicalize_bootstrap_address, find_gcs_addresses

    here = sorted({canonicalize_bootstrap_address(one) or one for one in find_gcs_addresses()})
    began_at = os.environ.get(BEGAN_AT)
    if began_at and here and began_at not in here:
        raise ValueError(
            f"ray.address=auto must find the cluster on which the run began, {began_at}, got {' and '.join(here)}; run again to compute "
            "there: what is complete stays"
        )
    if len(here) < 2:
        return "auto"
    if began_at:
        return began_at
    raise ValueError(
        f"ray.address=auto must find one cluster on this machine, got {len(here)} ({', '.join(here)}); set RAY_ADDRESS to the one that is "
        "meant, with RAY_AUTH_MODE=token where it has a token, or end the others"
    )


def _join(address: str) -> None:
    """Connect this process to a cluster that runs."""
    import ray
    from ray.exceptions import RayError

    taken = _taken() if _is_found(address) else address
    try:
        socket.create_connection(_host_and_port(taken), timeout=_ANSWER_S).close()
        with tempfile.TemporaryDirectory() as code:
            # In one folder, as they are here: a package finds another one's files beside its own.
            for package in _PACKAGES:
                shutil.copytree(ROOT / package, Path(code) / package, ignore=shutil.ignore_patterns("__pycache__"))
            ray.init(taken, runtime_env={"working_dir": code}, logging_level=logging.WARNING)
        if address == "auto":
            print(f"Ray is the cluster at {ray.get_runtime_context().gcs_address}", flush=True)
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

    Raises:
        ValueError: they would compute on GPUs, and the run began on CPUs; or the other way round.
    """
    check_same_kind(num_gpus > 0)
    import ray

    actor = ray.remote(WorkerActor).options(
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
