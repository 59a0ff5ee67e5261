"""Where a training or a reference pass computes: how many processes there are, and where their nodes meet.

That is HOST:PORT, from a setting or from the environment. The first node is the one whose process launches the others. Its torchrun
listens there, and all nodes connect to it.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from bnf.parallel.slurm import slurm_job

# torchrun's.
_DEFAULT_PORT = 29500
HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")

# A name that was just given to this machine, as to a pod of Kubernetes, may be known a moment later.
_KNOWN_WITHIN_S = 30.0


@dataclass(frozen=True)
class Placement:
    """`nproc_per_node` processes on each of `num_nodes` nodes, and how these hold the model (`bnf.model.sharding`).

    `rdzv_endpoint` is HOST:PORT; None leaves it to the environment.
    """

    nproc_per_node: int = 1
    num_nodes: int = 1
    rdzv_endpoint: str | None = None
    sharding: str = "none"
    cpu_offload: bool = False

    @property
    def is_launched(self) -> bool:
        """Whether the work runs in processes of its own, which torchrun starts."""
        return self.nproc_per_node * self.num_nodes > 1 or self.sharding != "none"

    @property
    def of_one_node(self) -> Placement:
        """The same processes on the first node alone: for work in which the other nodes take no part."""
        return Placement(
            self.nproc_per_node, sharding="none" if self.sharding == "none" else "full", cpu_offload=self.cpu_offload
        )

    def node_number(self, environment: Mapping[str, str] = os.environ) -> int:
        """Which of the nodes this is, from 0, where the same command was started on each: by `srun`, by an indexed job of Kubernetes, or
        with torchrun's PET_NODE_RANK. 0 where nothing says it.
        """
        if environment.get("SLURM_STEP_NUM_TASKS") == str(self.num_nodes):
            return int(environment["SLURM_PROCID"])
        return int(environment.get("JOB_COMPLETION_INDEX") or environment.get("PET_NODE_RANK") or 0)

    def meeting_point(self, environment: Mapping[str, str] = os.environ) -> str:
        """HOST:PORT where the nodes meet: `rdzv_endpoint`, else what torchrun's variables say, else the first node of the Slurm job.

        Raises:
            ValueError: nothing says it, or what says it is no HOST:PORT.
        """
        if self.rdzv_endpoint is not None:
            return _checked("rdzv_endpoint", self.rdzv_endpoint)
        if endpoint := environment.get("PET_RDZV_ENDPOINT"):
            return _checked("PET_RDZV_ENDPOINT", endpoint if ":" in endpoint else f"{endpoint}:{_DEFAULT_PORT}")
        for host, port in (("MASTER_ADDR", "MASTER_PORT"), ("PET_MASTER_ADDR", "PET_MASTER_PORT")):
            if environment.get(host):
                return _checked(f"{host}:{port}", f"{environment[host]}:{environment.get(port) or _DEFAULT_PORT}")
        job = slurm_job(environment)
        if job is not None:
            return f"{job.own}:{job.port}"
        raise ValueError(
            f"rdzv_endpoint must be given where num_nodes is {self.num_nodes} and neither torchrun's variables (PET_RDZV_ENDPOINT, "
            "MASTER_ADDR) nor Slurm's (SLURM_JOB_NODELIST) say where the nodes meet, got None; write "
            f"train.rdzv_endpoint=HOST:{_DEFAULT_PORT} with the name or address by which the other nodes reach this one"
        )


def _checked(name: str, endpoint: str) -> str:
    found = HOST_PORT.fullmatch(endpoint)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(f"{name} must be HOST:PORT, got {endpoint!r}; write such as node1:{_DEFAULT_PORT}")
    return endpoint


def check_meeting_point(endpoint: str) -> None:
    """Checks that nodes can meet at this HOST:PORT of this machine; torchrun would try for minutes, and not say what is wrong.

    Raises:
        ValueError: no machine has the name, or another program listens at the port.
    """
    found = HOST_PORT.fullmatch(endpoint)
    assert found is not None
    host, port = found["host"].strip("[]"), int(found["port"])
    until_s = time.monotonic() + _KNOWN_WITHIN_S
    while True:
        try:
            socket.getaddrinfo(host, port)
            break
        except OSError as error:
            if time.monotonic() > until_s:
                raise ValueError(
                    f"rdzv_endpoint must name this machine, got {endpoint!r} ({error}); write the name or address by which the other "
                    "nodes reach it"
                ) from error
        time.sleep(0.5)
    dual = socket.has_dualstack_ipv6()
    try:
        socket.create_server(("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual).close()
    except OSError as error:
        raise ValueError(
            f"rdzv_endpoint must have a port that is free on the first node, got {endpoint!r} ({error.strerror}); take another port"
        ) from error
