"""What the nodes of a run need of the machine while they are at work, and the devices that it has for them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bnf.host import own_cores
from bnf.model.device import devices
from bnf.plugins import load
from bnf.process import CORES_VARIABLE
from evaluation.engines import is_remote
from tasks.job import Settings
from tasks.nodes import Node
from tasks.stages import STAGES

# What is counted: GPUs, or shares of the cores; nodes that compute without a model; nodes that ask endpoints.
DEVICES, CPU_SLOTS, ENDPOINTS = "devices", "cpu_slots", "endpoints"


def asks_endpoint(node: Node) -> bool:
    """Whether the node's engine runs behind an endpoint."""
    engine = node.settings.get("engine")
    return engine is not None and is_remote(engine["name"])


def needs_accelerator(node: Node) -> bool:
    """Whether a node needs the accelerator: its engine runs on this machine, or, without an engine, its stage says so."""
    return not asks_endpoint(node) if node.settings.get("engine") else load(STAGES, node.stage).ACCELERATOR


def ray_places(node: Node) -> bool:
    """Whether Ray places the node's work on whatever there is: of a cluster, this machine too; a reference pass on all of this machine."""
    ray = node.unkeyed.get("ray")
    return ray is not None and (ray != "local" or not node.settings.get("engine"))


def num_devices(node: Node, total: int) -> int:
    """How many of the machine's devices a node computes on: all of its processes' and replicas', and no more than there are."""
    if not needs_accelerator(node):
        return 0
    if node.stage == "budget" and not devices():
        # It measures how much memory is free.
        return total
    placed: Settings = {**node.settings, **node.unkeyed}
    if ray_places(node):
        return total
    if node.settings.get("engine"):
        options = placed.get("engine_placement", {})
        wanted = options.get("tensor_parallel_size", 1) * options.get("num_replicas", 1)
    else:
        # A stage of training has its settings, or, where it tries rows, a part of them.
        placed = placed.get("train", placed)
        # On several nodes each gives all that it has.
        wanted = placed.get("nproc_per_node", 1) if placed.get("num_nodes", 1) == 1 else total
    return min(wanted, total)


def needs_of(node: Node, total_devices: int) -> dict[str, int]:
    """How much of each resource a node takes. Nodes that ask endpoints take turns: their processes share the run's ledger of spending."""
    if asks_endpoint(node):
        return {ENDPOINTS: 1}
    number = num_devices(node, total_devices)
    return {DEVICES: number} if number else {CPU_SLOTS: 1}


@dataclass(frozen=True)
class Devices:
    """The devices that the nodes of a run share out, by number from 0: GPUs, or without GPUs shares of the cores.

    Args:
        gpus: their names in CUDA_VISIBLE_DEVICES.
        cores: the cores of each share.
        all_here: whether these are all that the machine has. Who gets all of them is told nothing.
    """

    gpus: Sequence[str] = ()
    cores: Sequence[Sequence[int]] = ()
    all_here: bool = True

    @property
    def total(self) -> int:
        """How many there are; a machine without GPUs is one, whatever its cores."""
        return len(self.gpus) or len(self.cores) or 1

    def environment(self, numbers: Sequence[int]) -> dict[str, str]:
        """The variables that give a process these devices and no others."""
        if not numbers or (self.all_here and len(numbers) == self.total):
            return {}
        if self.gpus:
            return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus[number] for number in numbers)}
        cores = [core for number in numbers for core in self.cores[number]]
        # What the user has set stays.
        threads = os.environ.get("OMP_NUM_THREADS", str(len(cores)))
        return {CORES_VARIABLE: ",".join(map(str, cores)), "OMP_NUM_THREADS": threads}


def most_devices() -> int:
    """How many devices this machine can have: its GPUs, or without GPUs as many as cores."""
    if found := len(devices()):
        return found
    # Elsewhere a process can't be given cores of its own.
    return len(own_cores()) if sys.platform == "linux" else 1


def machine_devices(wanted: int | None) -> Devices:
    """The devices of this machine: all GPUs, or the cores as one; with `wanted` so many GPUs, or shares of the cores."""
    if found := len(devices()):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        every = (visible.split(",") if visible else [str(number) for number in range(found)])[:found]
        return Devices(gpus=every[: wanted or found], all_here=(wanted or found) >= found)
    if wanted is None or wanted == 1:
        return Devices()
    cores = own_cores()
    return Devices(cores=[cores[len(cores) * n // wanted : len(cores) * (n + 1) // wanted] for n in range(wanted)])
