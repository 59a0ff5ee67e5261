"""Processes of a Ray cluster that share out tasks, as `processes` does on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, cast

from bnf.parallel.code import code_digest
from bnf.parallel.ray_workers import connect
from bnf.parallel.sent_errors import SentError
from data.preparing.processes import Make, in_order, under_way

if TYPE_CHECKING:
    from ray import ObjectRef

# How often a task is begun again whose process has ended.
_RETRIES = 3
_VARIABLES = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")


def on_ray(
    address: str, make: Callable[[S], Callable[[T], R]], setting: S, tasks: Iterable[T], num_proc: int | None
) -> Iterator[R]:
    """What `make(setting)` gives for each task. A task begins where a core is free, and again where its process has ended.

    Args:
        num_proc: the most cores to use; None is all of the cluster.

    Raises:
        ValueError: there is no cluster at the address, or a node has other code.
        RuntimeError: a task has ended each process that had it.
        Exception: what a task raises; the others are cancelled.
    """
    cluster = connect(address)
    if not cluster.num_cpus:
        raise ValueError(
            f"ray.address must lead to a cluster that has cores, got none at {address}; start Ray on a node with --num-cpus"
        )
    import ray
    from ray.exceptions import RayError, RayTaskError

    do = ray.remote(_do).options(num_cpus=1, max_retries=_RETRIES, runtime_env={"env_vars": _VARIABLES})
    given = os.urandom(16), code_digest(), cast(Make, make), ray.put(setting)

    def result(task: ObjectRef[object]) -> R:
        try:
            return cast(R, ray.get(task))
        except RayTaskError as error:
            raise error.cause from None
        except (RayError, ConnectionError) as error:
            raise RuntimeError(
                f"a worker on Ray must live until its rows are rendered, got {_RETRIES + 1} that ended with the same rows, or a cluster "
                f"that is gone ({' '.join(str(error).split())[:300]}); see Ray's logs for the reason, which is often too little memory"
            ) from error

    def cancel(task: ObjectRef[object]) -> None:
        with suppress(RayError, ConnectionError):
            ray.cancel(task)

    # Every task that is begun takes a core as soon as one is free.
    most = under_way(cluster.num_cpus) if num_proc is None else num_proc
    yield from in_order(tasks, most, lambda task: do.remote(*given, task), result, cancel)


_made: tuple[bytes, Callable[[object], object]] | None = None


def _do(caller: bytes, code: str, make: Make, setting: object, task: object) -> object:
    """Runs in a worker, which keeps what it made until another caller asks."""
    try:
        return _work(caller, code, make, setting)(task)
    except Exception as error:
        raise SentError.of(error).error() from None


def _work(caller: bytes, code: str, make: Make, setting: object) -> Callable[[object], object]:
    global _made
    if _made is None or _made[0] != caller:
        if (own := code_digest()) != code:
            raise ValueError(f"every node of a Ray cluster must compute with {code}, got {own}; install the same versions")
        _made = caller, make(setting)
    return _made[1]
