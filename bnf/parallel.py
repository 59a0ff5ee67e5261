"""Data parallelism over whole rows: the processes of one training share the rows of each optimizer step.

A step holds the same rows as in one process, and its loss is divided by the same totals, so that the number of processes changes
nothing but the order in which floating-point numbers are added.
"""

import math
from collections.abc import Iterator
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from bnf.logps import row_logps
from bnf.losses import Totals
from bnf.packing import Row

_T = TypeVar("_T")


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and reports."""
    return not dist.is_initialized() or dist.get_rank() == 0


def wait_for_all() -> None:
    """Goes on when all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def sum_totals(own: Totals, num_mismatched: int, device: torch.device) -> Totals:
    """What all rows of a step share, from what each process knows of its own; `num_mismatched` weighs its mean log-ratio."""
    if num_processes() == 1:
        return own
    mean = own.mismatched_logratio
    weighted = 0.0 if mean is None else float(mean) * num_mismatched
    sums = torch.tensor([own.num_completions, own.num_pairs, num_mismatched, weighted], dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    # A process without a row of its own computes nothing that would read the mean.
    logratio = None if mean is None else sums[3] / sums[2]
    return Totals(int(sums[0]), int(sums[1]), logratio)


def gather(value: _T) -> list[_T]:
    """The value of each process, in their order."""
    if num_processes() == 1:
        return [value]
    values: list[Any] = [None] * num_processes()
    dist.all_gather_object(values, value)
    return values


class SeededOrder(Sampler[int]):
    """The order of rows in an epoch: a permutation that the seed and the epoch's number fix.

    Where several processes take rows in turn, each step is filled up to a multiple of their number with the index `num_rows`,
    which stands for nothing, so that all of them compute equally many.
    """

    def __init__(self, num_rows: int, seed: int, *, rows_per_step: int, num_processes: int) -> None:
        self.num_rows, self.seed, self.epoch = num_rows, seed, 0
        self.rows_per_step, self.num_processes = rows_per_step, num_processes

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.num_rows, self.rows_per_step)
        return whole * self._filled(self.rows_per_step) + self._filled(rest)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.num_rows, generator=generator).tolist()
        for first in range(0, self.num_rows, self.rows_per_step):
            step = order[first : first + self.rows_per_step]
            yield from step
            yield from [self.num_rows] * (self._filled(len(step)) - len(step))

    def _filled(self, num_rows: int) -> int:
        return math.ceil(num_rows / self.num_processes) * self.num_processes


def accept_rows(model: Any) -> None:
    """Makes `model(row=…)` compute `row_logps`, beside all that `model` took before.

    A wrapper such as DistributedDataParallel adds up the gradients of what went through its own forward, and of nothing else.
    """
    plain = model.forward

    @wraps(plain)
    def forward(*args: Any, row: Row | None = None, **kwargs: Any) -> Any:
        return plain(*args, **kwargs) if row is None else row_logps(model, row, **kwargs)

    model.forward = forward
