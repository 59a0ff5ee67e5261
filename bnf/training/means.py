"""Means of named values over the rows of a step or of an evaluation."""

import torch
from torch import Tensor

from bnf.parallel.group import gather, num_processes


class Means:
    """Means over everything that was added since the last `pop`. Sums stay on the device, so adding doesn't synchronise."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, own: Tensor | None = None) -> None:
        """Adds the values, or those where the mask `own` is true."""
        if own is None:
            own = torch.ones_like(values, dtype=torch.bool)
        total, number = torch.where(own, values, 0.0).double().sum(), own.sum()
        self._sums[name] = total + self._sums[name] if name in self._sums else total
        self._counts[name] = number + self._counts[name] if name in self._counts else number

    def gather(self) -> None:
        """Adds up what the processes of a training hold; afterwards each of them holds all of it."""
        if num_processes() == 1:
            return
        everyones = gather((_to_cpu(self._sums), _to_cpu(self._counts)))
        self._sums, self._counts = {}, {}
        for sums, counts in everyones:
            for name in sums:
                self._sums[name] = sums[name] + self._sums.get(name, 0)
                self._counts[name] = counts[name] + self._counts.get(name, 0)

    def pop(self) -> dict[str, float]:
        """The means by name, in the names' order; adding then starts anew. A name without a value is left out."""
        names = sorted(self._sums)
        if not names:
            return {}
        columns = (torch.stack([values[name] for name in names]).tolist() for values in (self._sums, self._counts))
        self._sums, self._counts = {}, {}
        return {name: total / count for name, total, count in zip(names, *columns, strict=True) if count}


def _to_cpu(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in values.items()}
