"""Data parallelism over whole rows: the processes of one training share the rows of each optimizer step.

A step holds the same rows as in one process, and its loss is divided by the same totals. So the number of processes changes only the
order in which floating-point numbers are added.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Sampler

from bnf.data.packing import step_bounds
from bnf.parallel.group import num_processes
from bnf.training.losses import Totals

_T = TypeVar("_T")


def sum_totals(own: Totals, num_kl_pairs: int, device: torch.device) -> Totals:
    """The totals of a step over all processes, from those of this process's rows; `num_kl_pairs` weighs its mean log-ratio."""
    if num_processes() == 1:
        return own
    mean = own.kl_pair_logratio
    weighted = 0.0 if mean is None else float(mean) * num_kl_pairs
    numbers = [own.num_completions, own.num_pairs, num_kl_pairs, weighted, *own.batch_sums]
    sums = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    # A process without a row of its own computes nothing that would read the mean.
    logratio = None if mean is None else sums[3] / sums[2]
    return Totals(int(sums[0]), int(sums[1]), logratio, tuple(sums[4:].tolist()))


class SeededSteps(Sampler[list[int]]):
    """The rows of each optimizer step of an epoch that one process computes, as indices.

    The seed and the epoch's number fix a permutation of the rows. It is split into steps (`bnf.data.packing.step_bounds`), whose rows the
    processes take in turn. A process that gets no row of a step gets the index `len(sizes)`, that of a filler row: all processes must
    take part in every step.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        seed: int,
        *,
        num_steps: int,
        process: int = 0,
        num_processes: int = 1,
        equally_many: bool = False,
    ) -> None:
        """`sizes` are the rows' numbers of groups. With `equally_many` filler rows give all processes as many rows of a step: each row
        of a sharded model needs all of them.
        """
        self.sizes, self.seed, self.num_steps, self.epoch = sizes, seed, num_steps, 0
        self.equally_many = equally_many
        self.process, self.num_processes = process, num_processes

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.sizes), generator=generator).tolist()
        first = 0
        for last in step_bounds([self.sizes[row] for row in order], self.num_steps):
            own = order[first:last][self.process :: self.num_processes]
            at_least = -(-(last - first) // self.num_processes) if self.equally_many else 1
            yield own + [len(self.sizes)] * (at_least - len(own))
            first = last


class StepLoader(DataLoader[_T]):
    """Gives a process its rows of one optimizer step after another."""

    def __init__(self, rows: Sequence[_T], steps: SeededSteps) -> None:
        """`rows` are the rows that `steps` numbers, and last the filler row."""
        super().__init__(rows, batch_sampler=steps, collate_fn=_together)  # type: ignore[arg-type]
        self._steps = steps

    def set_epoch(self, epoch: int) -> None:
        """transformers calls it before each epoch. For a resumed epoch it makes another loader, and finds that one's sampler by itself."""
        self._steps.set_epoch(epoch)


def _together(rows: list[_T]) -> dict[str, list[_T]]:
    return {"rows": rows}
