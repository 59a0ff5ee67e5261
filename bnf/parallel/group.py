"""What one of several processes asks of the others. A process on its own is the first of one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

_T = TypeVar("_T")
# How long a process waits for the others: the first one alone reads, digests and writes models, which torch's limits of 10 minutes (nccl)
# and 30 (gloo) may not do for. It finds no process that died: torchrun does, and on other nodes the launcher.
_WAIT = timedelta(hours=12)


def meet() -> None:
    """Makes this process one of those that torchrun started. Tensors of the CPU's memory can be exchanged too."""
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_WAIT)


def num_processes() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes files and reports."""
    return not dist.is_initialized() or dist.get_rank() == 0


def process_number() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait_for_all() -> None:
    """Waits until all processes have called it."""
    if dist.is_initialized():
        dist.barrier()


def gather(value: _T) -> list[_T]:
    """The value of each process, in the order of their numbers."""
    if num_processes() == 1:
        return [value]
    values: list[_T | None] = [None] * num_processes()
    dist.all_gather_object(values, value)
    return cast(list[_T], values)


def of_first(compute: Callable[[], _T]) -> _T:
    """What the first process computes, for all: what they decide by files they must decide alike."""
    if num_processes() == 1:
        return compute()
    values = [compute() if is_first() else None]
    dist.broadcast_object_list(values, src=0)
    return cast(_T, values[0])
