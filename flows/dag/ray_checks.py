"""Whether Ray is there where the recipe says, and what its cluster has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from bnf.model.device import device_kind
from bnf.parallel.cluster import Cluster
from bnf.parallel.ray_probe import cluster_at
from flows.dag.checks import Check
from tasks.nodes import Node


@dataclass(frozen=True)
class RayCheck(Check):
    """The check of Ray, and the cluster that it found. `local` is this machine: no cluster is asked."""

    cluster: Cluster | None = None


def ray_check(nodes: Iterable[Node]) -> RayCheck | None:
    """The check of Ray, where one of the tasks needs it."""
    address = next((node.unkeyed["ray"] for node in nodes if "ray" in node.unkeyed), None)
    if address is None:
        return None
    name = f"Ray {address}"
    if find_spec("ray") is None:
        return RayCheck(
            name,
            f"ray.address must be none without the package ray, got {address}; .venv/bin/pip install 'ray[data]==2.60.0'",
        )
    if address == "local":
        return RayCheck(name, None, "this machine")
    try:
        cluster = cluster_at(address)
    except ValueError as error:
        return RayCheck(name, str(error))
    number = "1 node" if cluster.num_nodes == 1 else f"{cluster.num_nodes} nodes"
    where = f" at {cluster.address}" if cluster.address else ""
    seen = f"{number}, {cluster.num_gpus} GPUs, {cluster.num_cpus} cores{where}"
    return RayCheck(name, None, seen, is_said=True, cluster=cluster)


def cluster_variables(checks: Iterable[Check]) -> dict[str, str]:
    """What the processes of a run are told of the cluster that its checks found: they stay on it, and on its kind of device."""
    found = (check.cluster for check in checks if isinstance(check, RayCheck))
    return next((cluster.variables() for cluster in found if cluster is not None), {})


def device_check(nodes: Iterable[Node], cluster: Cluster | None) -> Check | None:
    """The check that a cluster's reference pass computes on the kind of device on which this machine trains; None without either."""
    if cluster is None or not any(node.stage == "reference" and "ray" in node.unkeyed for node in nodes):
        return None
    here, there = device_kind(), "cuda" if cluster.num_gpus else "cpu"
    problem = (
        f"ray.address must be that of a cluster whose nodes compute on {here}, as this machine trains there and its reference is compared "
        f"bit by bit, got one on {there}; start the run on a node of the cluster, or set ray.address to none"
    )
    return Check("devices of the reference pass", None if here == there else problem, there)
