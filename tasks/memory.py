"""The most memory that a stage takes, for the manifest: by it `bnf plan` says what the same stage will take again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import NotRequired, TypedDict

import psutil

# Seconds between two looks: each takes a millisecond or two.
_INTERVAL_S = 1.0


class Memory(TypedDict):
    """The most bytes that a stage's processes held together, and of a GPU those that torch held in the stage's own process."""

    host: NotRequired[int]
    device: NotRequired[int]


class PeakMemory:
    """The most memory of a process and of all that it has started, while a job runs in it.

    What each process held is its own high-water mark where the system keeps one (Linux), so that no short peak is missed; their sum is an
    upper bound where the peaks come at different times or the processes share pages.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._host, self._device = 0, 0
        self._looked_s = 0.0
        # Of the process itself the mark starts anew with each job; what it has started keeps what it holds between jobs.
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def look(self) -> None:
        """Look at the processes, unless the last look was a moment ago."""
        if time.monotonic() - self._looked_s >= _INTERVAL_S:
            self._look()

    def end(self, device_bytes: int | None) -> None:
        """Look a last time, while the processes are there; with what the job itself says of a GPU."""
        self._look()
        self._device = device_bytes or 0

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._pid)
            self._host = max(self._host, sum(_held(one) for one in (process, *process.children(recursive=True))))

    def to_json(self) -> Memory:
        """The peaks that are known, in bytes."""
        found: Memory = {}
        if self._host:
            found["host"] = self._host
        if self._device:
            found["device"] = self._device
        return found


def _held(process: psutil.Process) -> int:
    """The most resident memory that a process has had, or where the system doesn't say what it has now; 0 of one that has ended."""
    with contextlib.suppress(OSError, psutil.Error):
        status = Path(f"/proc/{process.pid}/status")
        if status.exists():
            marks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
            return 1024 * int(marks[0]) if marks else 0
        return int(process.memory_info().rss)
    return 0
