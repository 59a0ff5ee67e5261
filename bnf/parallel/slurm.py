"""Slurm (https://slurm.schedmd.com): the nodes of the job that this process runs in, and the command that starts the others."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

# Below the ports that Linux gives to outgoing connections by itself.
_FIRST_PORT, _NUM_PORTS = 15_000, 15_000


@dataclass(frozen=True)
class SlurmJob:
    """The job's nodes in Slurm's order, the name of the one that this process runs on, and a port that other jobs hardly take.

    `num_tasks` counts the processes that the same `srun` started: above 1 they run the same command.
    """

    nodes: tuple[str, ...]
    own: str
    port: int
    num_tasks: int

    def others(self, num_nodes: int) -> list[str]:
        """The nodes that work with this one.

        Raises:
            ValueError: the job has too few nodes.
        """
        others = [node for node in self.nodes if node != self.own]
        if len(others) < num_nodes - 1:
            raise ValueError(
                f"num_nodes must be at most the {len(self.nodes)} nodes of the Slurm job, got {num_nodes}; lower it, or ask for "
                f"more (sbatch --nodes={num_nodes})"
            )
        return others[: num_nodes - 1]

    def starts_others(self) -> bool:
        """Whether the launcher starts the other nodes itself: not where `srun` started a process on each of them already."""
        return self.num_tasks == 1 and shutil.which("srun") is not None


def slurm_job(environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
    """The job that this process runs in; None outside of Slurm.

    Raises:
        ValueError: this machine is none of the job's nodes.
    """
    nodelist, job_id = environment.get("SLURM_JOB_NODELIST"), environment.get("SLURM_JOB_ID")
    if not nodelist or not job_id:
        return None
    nodes = tuple(_host_names(nodelist))
    here = environment.get("SLURMD_NODENAME") or socket.gethostname()
    own = next((node for node in nodes if node == here or node.split(".")[0] == here.split(".")[0]), None)
    if own is None:
        raise ValueError(
            f"a training on several nodes must be started on a node of the Slurm job ({nodelist}), got {here}; put the command into a "
            "script for sbatch, or write `srun --nodes=1 --ntasks=1` before it"
        )
    port = _FIRST_PORT + int(job_id) % _NUM_PORTS
    return SlurmJob(nodes, own, port, int(environment.get("SLURM_STEP_NUM_TASKS") or 1))


def srun_command(nodes: Sequence[str], command: Sequence[str]) -> list[str]:
    """The command that runs `command` once on each of these nodes of the job, beside what runs there."""
    return [
        "srun",
        # The launcher's own step holds the same processors and devices of its node; on these nodes there is nothing else.
        "--overlap",
        f"--nodes={len(nodes)}",
        f"--ntasks={len(nodes)}",
        "--ntasks-per-node=1",
        f"--nodelist={','.join(nodes)}",
        # A binding that the launcher's own step was given holds for another node's processors otherwise.
        "--cpu-bind=none",
        "--kill-on-bad-exit=1",
        "--export=ALL",
        *command,
    ]


def _host_names(nodelist: str) -> list[str]:
    """The nodes that a list such as `gpu[01-03,07],login` names."""
    if shutil.which("scontrol") is not None:
        shown = subprocess.run(["scontrol", "show", "hostnames", nodelist], check=True, capture_output=True, text=True)
        return shown.stdout.split()
    parts = re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", nodelist)
    return [name for part in parts for name in _expanded(part)]


def _expanded(part: str) -> list[str]:
    """`rack[1-2]n[08-10]` is every combination; numbers keep their leading zeros."""
    choices: list[list[str]] = []
    for text, ranges in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", part):
        if text:
            choices.append([text])
            continue
        numbers: list[str] = []
        for one in ranges.split(","):
            first, _, last = one.partition("-")
            numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]
        choices.append(numbers)
    return ["".join(names) for names in product(*choices)]
