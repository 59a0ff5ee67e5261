"""What the machines of a Ray cluster have, and how many workers find room there; and what a run's processes know of the one it began on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

# The variables that tell a run's processes where the cluster was on which it began, and how many GPUs that had.
BEGAN_AT, BEGAN_WITH_GPUS = "BNF_RAY_CLUSTER", "BNF_RAY_GPUS"


@dataclass(frozen=True)
class Machine:
    """GPUs and cores of one machine, as Ray counts them."""

    num_gpus: int
    num_cpus: int


@dataclass(frozen=True)
class Cluster:
    """The machines that are there now.

    Attributes:
        address: HOST:PORT of its head, where `auto` found it; else empty.
    """

    machines: tuple[Machine, ...]
    address: str = ""

    @property
    def num_gpus(self) -> int:
        return sum(machine.num_gpus for machine in self.machines)

    @property
    def num_cpus(self) -> int:
        return sum(machine.num_cpus for machine in self.machines)

    @property
    def num_nodes(self) -> int:
        return len(self.machines)

    def room_for(self, gpus: int) -> int:
        """For how many workers there is room: each has so many GPUs of one machine, or without any GPU in the cluster a core."""
        return sum(machine.num_gpus // gpus for machine in self.machines) if self.num_gpus else self.num_cpus

    def cores_each(self, count: int) -> int:
        """The most cores that each of so many workers can have of one machine; 0 where there is no room for so many."""
        most = max((machine.num_cpus for machine in self.machines), default=0)
        fits = (cores for cores in range(most, 0, -1) if sum(one.num_cpus // cores for one in self.machines) >= count)
        return next(fits, 0)

    def variables(self) -> dict[str, str]:
        """The variables of the processes of a run that begins on this cluster."""
        return {BEGAN_AT: self.address, BEGAN_WITH_GPUS: str(self.num_gpus)}


def check_same_kind(on_gpus: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Called before workers compute on GPUs or on CPUs: a run stays on the kind that it began on, as a model has other bits on the other.

    Raises:
        ValueError: the cluster had GPUs when the run began and has none now, or had none and has some now.
    """
    began = environment.get(BEGAN_WITH_GPUS)
    if began is None:
        return
    number = int(began)
    if on_gpus and not number:
        raise ValueError(
            "ray.address must be that of a cluster without GPUs, as the run began on CPUs, got one to which GPUs have come; run again: "
            "what is complete stays, and the new run computes on GPUs. --refresh generate makes answers of both models on one kind"
        )
    if number and not on_gpus:
        raise ValueError(
            f"ray.address must be that of a cluster with GPUs, as the run began on {number} of them, got one that has none left; start Ray "
            "again on a node with GPUs (`ray start --address=HOST:PORT`), and run again: what is complete stays. A run that begins on the "
            "cluster as it is now computes on its CPUs"
        )
