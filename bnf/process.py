"""Child processes that run modules of the project. A child ends when its parent ends, and so do the processes that it started.

Linux alone kills a process whose parent dies; elsewhere a child that outlives a `kill -9` of its parent ends when it next reads from it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PARENT = "BNF_PARENT_PID"
# The cores that a child is to use, where it gets not all of them.
CORES_VARIABLE = "BNF_CORES"
_PR_SET_PDEATHSIG = 1


def module_command(module: str, *words: str) -> list[str]:
    """The command that runs a module of the project. A folder of the same name where the person works is not taken for it (`-P`)."""
    return [sys.executable, "-P", "-m", module, *words]


def module_environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's variables and the given ones, with what a module of the project needs: where it is, and who its parent is."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **(variables or {}), "PYTHONPATH": path, _PARENT: str(os.getpid())}


def die_with_parent(parent_pid: int | None = None) -> None:
    """Ask Linux to kill this process when its parent dies, even by kill -9.

    Args:
        parent_pid: the parent; left out, the process that made `module_environment`.

    Raises:
        SystemExit: that process has already ended.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != (int(os.environ[_PARENT]) if parent_pid is None else parent_pid):
            raise SystemExit("the parent process ended before this one began")


def take_cores() -> None:
    """Keep this process, and all that it starts, to the cores that its parent gave it."""
    if cores := os.environ.get(CORES_VARIABLE):
        os.sched_setaffinity(0, map(int, cores.split(",")))


def signal_group(leader_pid: int, number: int) -> None:
    """Send a signal to a process group. Where nothing of it is left, nothing happens."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader_pid, number)


def stop_group(leader: subprocess.Popen[bytes], grace_s: float) -> None:
    """End a process that leads its group, and all that it started: SIGTERM, and SIGKILL to what is left after `grace_s` seconds."""
    signal_group(leader.pid, signal.SIGTERM)
    try:
        leader.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        signal_group(leader.pid, signal.SIGKILL)
        leader.wait()
    signal_group(leader.pid, signal.SIGKILL)
