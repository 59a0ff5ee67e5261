"""Which process is at work on a run or a sweep: it says so in the lock file that it holds for as long as it lives."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LOCK = "alive.lock"


@dataclass(frozen=True)
class Owner:
    """A process, by the machine's name and its number there."""

    host: str
    pid: int

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, and there."""
        return self.host == platform.node() and Path(f"/proc/{self.pid}").exists()

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped, as by SIGSTOP or Ctrl-Z: it computes nothing, and hears nothing."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return self.is_here and state in "Tt"


def sign(lock: IO[str]) -> None:
    """Write this process's name into the lock file that it has just locked."""
    lock.truncate(0)
    lock.write(f"{platform.node()} {os.getpid()}\n")
    lock.flush()


def owner_of(folder: Path) -> Owner | None:
    """The process that last locked the file of this run or sweep; None where it doesn't say."""
    try:
        host, pid = (folder / LOCK).read_text().rsplit(maxsplit=1)
        return Owner(host, int(pid))
    except (OSError, ValueError):
        return None
