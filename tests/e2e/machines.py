"""Machines on this one: each has namespaces of its own for its name, its network, its processes and its mounts, and its own home.

    hub    where the test and the servers are: 10.77.0.1 on a bridge
    a, b   10.77.0.2, 10.77.0.3; a machine sees neither the other's home nor its processes

A network namespace of the test's own is the hub, so nothing of this machine's network is touched. All of it needs Linux and root.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.runs.progress import read_progress
from tests.e2e.conftest import Bnf

BIN = Path(sys.executable).parent
HUB = "10.77.0.1"
_CLONE_NEWNET = 0x40000000
# Ray keeps sockets and the cluster's address here.
_RAY = Path("/tmp/ray")


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


@contextlib.contextmanager
def hub() -> Iterator[None]:
    """This thread, and every process that it starts, is in a network of its own meanwhile, with a bridge for the machines."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("machines need Linux's namespaces, and root")
    with open("/proc/thread-self/ns/net") as before:
        if libc.unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"machines need namespaces, which are refused here ({os.strerror(ctypes.get_errno())})")
        try:
            # A bridge without an address of its own takes one of its machines', and the others lose the hub when that one is gone.
            bridge = "link add bnf address 02:00:00:00:00:01 type bridge"
            for words in ("link set lo up", bridge, f"addr add {HUB}/24 dev bnf", "link set bnf up"):
                _ip(words)
            yield
        finally:
            assert libc.setns(before.fileno(), _CLONE_NEWNET) == 0


class Machine(Bnf):
    """A machine with a home: `boot` starts it, `power_off` kills all that is on it at once. Its home outlives both."""

    def __init__(self, folder: Path, letter: str, others: str, **environment: str) -> None:
        self.name, self.address = f"machine-{letter}", f"10.77.0.{2 + ord(letter) - ord('a')}"
        self._letter, self._hidden = letter, [folder / other for other in others]
        for home in (folder / letter, *self._hidden):
            (home / "state").mkdir(parents=True, exist_ok=True)
        super().__init__(folder / letter, **environment)
        self._init: int | None = None

    def boot(self) -> None:
        _RAY.mkdir(exist_ok=True)
        hidden = " ".join(f"mount -t tmpfs tmpfs '{path}';" for path in (_RAY, *self._hidden))
        script = f"set -e; hostname {self.name}; ip link set lo up; {hidden} echo up; exec sleep infinity"
        unshare = ["unshare", "--uts", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        self._unshare = subprocess.Popen(
            [*unshare, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._unshare.stdout.readline() == "up\n"
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self._init = int(children.read_text())
        _ip(f"link add to-{self._letter} type veth peer name eth0 netns {self._init}")
        _ip(f"link set to-{self._letter} master bnf up")
        for words in (f"addr add {self.address}/24 dev eth0", "link set eth0 up", f"route add default via {HUB}"):
            subprocess.run([*self._inside(), "ip", *words.split()], check=True)

    def power_off(self) -> None:
        """Kill every process of the machine with one signal; nothing on it can say so to anybody."""
        os.kill(self._init, signal.SIGKILL)
        self._unshare.wait()

    def shut_down(self) -> None:
        if self._unshare.poll() is None:
            self.power_off()

    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self._init), "--uts", "--net", "--mount", "--pid", "--"]

    def start(self, *command: str | Path) -> subprocess.Popen:
        """A command on the machine, in its home's folder."""
        return subprocess.Popen(
            [*self._inside(), "sh", "-c", f"cd '{self.home}' && exec \"$@\"", "sh", *map(str, command)],
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def process(self, *words: str) -> subprocess.Popen:
        return self.start(BIN / "bnf", *words)

    def run(self, *command: str | Path) -> str:
        """The command's standard output, once it has ended well."""
        process = self.start(*command)
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, (command, out, err)
        return out

    def stage_log(self, name: str) -> str:
        """What the newest run's process of this name has said."""
        files = sorted((self.home / "state" / "runs").glob(f"*/logs/{name}.log"), key=lambda file: file.stat().st_mtime)
        return files[-1].read_text(errors="replace") if files else ""

    def counts(self, task: str) -> bool:
        """Whether a run of this machine counts what the task, named as in Prefect, has done: its engine is open."""
        return any(
            name == task and progress.total
            for run in (self.home / "state" / "runs").glob("*/")
            for name, progress in read_progress(run).tasks.items()
        )
