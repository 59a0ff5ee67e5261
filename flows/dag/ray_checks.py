"""Whether Ray is there where the recipe says, and what its cluster has."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from bnf.model.device import device_kind
from bnf.parallel.cluster import Cluster
from bnf.parallel.ray_probe import cluster_at
from flows.dag.checks import Check
from tasks.nodes import Node


def ray_check(nodes: Iterable[Node]) -> tuple[Check | None, Cluster | None]:
    """The check of Ray, where one of the tasks needs it, and the cluster that it found. `local` is this machine: no cluster is asked."""
    address = next((node.unkeyed["ray"] for node in nodes if "ray" in node.unkeyed), None)
    if address is None:
        return None, None
    name = f"Ray {address}"
    if find_spec("ray") is None:
        return Check(
            name,
            f"ray.address must be none without the package ray, got {address}; .venv/bin/pip install 'ray[data]==2.60.0'",
        ), None
    if address == "local":
        return Check(name, None, "this machine"), None
    try:
        cluster = cluster_at(address)
    except ValueError as error:
        return Check(name, str(error)), None
    number = "1 node" if cluster.num_nodes == 1 else f"{cluster.num_nodes} nodes"
    return Check(name, None, f"{number}, {cluster.num_gpus} GPUs, {cluster.num_cpus} cores"), cluster


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
