"""`python -m bnf.parallel.ray_probe ADDRESS` says what the cluster at a Ray address has, as JSON.

It is a process of its own, as a process connects to one cluster only, and as Ray may take minutes to say that there is none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from bnf.parallel.cluster import Cluster, Machine
from bnf.process import die_with_parent, module_command, module_environment

# An import of Ray and a connection take three seconds on an idle machine; Ray's own client gives up after 35.
_PATIENCE_S = 60.0


def cluster_at(address: str) -> Cluster:
    """What the cluster at the address has.

    Raises:
        ValueError: as `bnf.parallel.ray_workers.connect`, or it doesn't answer within a minute.
    """
    command = module_command("bnf.parallel.ray_probe", address)
    try:
        done = subprocess.run(
            command, env=module_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"ray.address must be that of a cluster that answers within {_PATIENCE_S:g} s, got {address}; look at `ray status` there"
        ) from None
    answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None
    if answer is None:
        raise ValueError(
            f"ray.address must be that of a cluster that answers, got {address}, at which Ray ended: {done.stderr[-500:].strip()}; "
            "look at `ray status` there"
        )
    if "problem" in answer:
        raise ValueError(answer["problem"])
    return Cluster(tuple(Machine(*machine) for machine in answer["machines"]), answer["address"])


def main() -> None:
    die_with_parent()
    from bnf.parallel.ray_workers import connect

    answer: dict[str, object]
    try:
        cluster = connect(sys.argv[1])
    except ValueError as error:
        answer = {"problem": str(error)}
    else:
        machines = [[machine.num_gpus, machine.num_cpus] for machine in cluster.machines]
        answer = {"machines": machines, "address": cluster.address}
    print(json.dumps(answer), flush=True)
    # Ray's own end takes a second, and has nothing to say.
    os._exit(0)


if __name__ == "__main__":
    main()
