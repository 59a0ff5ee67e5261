"""How many nodes of a run may be at work at the same time: the machine's devices and cores, and what the recipe says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bnf.host import own_cores
from bnf.model.device import devices
from flows.dag.schedule import Waiting
from flows.recipe.config import Recipe
from tasks.job import Settings
from tasks.nodes import Node
from tasks.resources import (
    CPU_SLOTS,
    DEVICES,
    Devices,
    asks_endpoint,
    machine_devices,
    most_devices,
    needs_of,
    num_devices,
    ray_places,
)

# What every node takes where one is at work at a time, and what those take that compute nothing.
TURN, CACHED = "turn", "cached"


def shared_devices(recipe: Recipe) -> Devices:
    """The devices that the run's nodes share out."""
    return machine_devices(recipe.resources.devices)


def totals(recipe: Recipe, devices: Devices | None = None, cpu_slots: int | None = None) -> dict[str, int]:
    """How much there is of each resource; of all that isn't named, 1. A run that isn't alone on the machine has these devices, and no more
    than these slots.
    """
    return {
        DEVICES: (devices or shared_devices(recipe)).total,
        CPU_SLOTS: min(filter(None, (cpu_slots, recipe.resources.cpu_slots)), default=len(own_cores())),
    }


def one_at_a_time(recipe: Recipe, nodes: Sequence[Node], devices: Devices | None = None) -> bool:
    """Whether nodes run one after another: one device is all there is, no endpoint computes meanwhile, and nobody asked for CPU slots."""
    return (
        (devices or shared_devices(recipe)).total == 1
        and recipe.resources.cpu_slots is None
        and not any(map(asks_endpoint, nodes))
    )


def waiting(node: Node, num_all_devices: int, *, is_cached: bool, alone: bool) -> Waiting:
    """The node as the schedule knows it. Nodes of a session run one after another, and so do cached ones, each of which takes moments."""
    if alone:
        needs = {TURN: 1}
    elif is_cached:
        needs = {CACHED: 1}
    else:
        needs = needs_of(node, num_all_devices) | ({f"session {node.session}": 1} if node.session is not None else {})
    return Waiting(node.id, tuple(node.inputs.values()), needs)


def problem(recipe: Recipe, nodes: Sequence[Node]) -> str | None:
    """Why this machine, or a node, can't do with the recipe's `resources`; None where they can."""
    wanted, gpus = recipe.resources.devices, len(devices())
    if wanted is None:
        return None
    most = most_devices()
    if wanted > most:
        what = "GPUs" if gpus else "cores, which are shared out"
        return f"resources.devices must be at most {most}, this machine's {what}, got {wanted}; lower it, or leave it out"
    # Without GPUs the processes of a node share whatever cores it gets. What Ray places takes all devices, and does with fewer.
    counted = [node for node in nodes if gpus and not ray_places(node)]
    needed = {node.label: num_devices(_on_one_node(node), gpus) for node in counted}
    name = max(needed, key=lambda label: needed[label], default=None)
    if name is not None and needed[name] > wanted:
        return f"resources.devices must be at least {needed[name]}, the GPUs that {name} computes on, got {wanted}; raise it"
    return None


def _on_one_node(node: Node) -> Node:
    """The node as if one machine ran it: where several do it takes all devices of each, and needs no more than it has processes there."""
    return replace(node, settings=_with_one_node(node.settings), unkeyed=_with_one_node(node.unkeyed))


def _with_one_node(settings: Settings) -> Settings:
    one = {**settings, "num_nodes": 1} if "num_nodes" in settings else settings
    return {**one, "train": _with_one_node(one["train"])} if "train" in one else one
