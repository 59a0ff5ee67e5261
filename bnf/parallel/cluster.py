"""What the machines of a Ray cluster have, and how many workers find room there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """GPUs and cores of one machine, as Ray counts them."""

    num_gpus: int
    num_cpus: int


@dataclass(frozen=True)
class Cluster:
    """The machines that are there now."""

    machines: tuple[Machine, ...]

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
