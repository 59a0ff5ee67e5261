"""The nodes of a launch know one another by files in the folder of its launch.json, which all of them see.

The first node writes launch.json, and touches it as long as it lives. Each other node claims a number with a file of its own, and touches
that. A file that has not changed for `SILENT_S` belongs to a node that is gone, however it ended. No clocks are compared.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

CALL_FILE = "launch.json"
# Seconds between two signs of life, and without one until a node counts as gone. A network file system may show a file a minute late.
BEAT_S = 2.0
SILENT_S = 120.0
# How long the first node waits for the others.
WAIT_S = 600.0


def beat(file: Path) -> None:
    """Gives a sign of life. A file system that is away for a moment is no reason to end."""
    with contextlib.suppress(OSError):
        os.utime(file)


class Pulse:
    """Whether the owner of a file lives, as far as its signs of life say."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._changed_s = time.monotonic()
        self._last = self._look()
        self._has_beaten = False

    def has_beaten(self) -> bool:
        """Whether there was a sign of life since this object looked for the first time."""
        self.lives()
        return self._has_beaten

    def lives(self) -> bool:
        """Whether there was a sign of life in the last `SILENT_S` seconds."""
        found = self._look()
        if found is not None and found != self._last:
            self._has_beaten = self._last is not None
            self._last, self._changed_s = found, time.monotonic()
        return time.monotonic() - self._changed_s < SILENT_S

    def _look(self) -> int | None:
        # A network file system asks its server when a file is opened; what it says of a file otherwise may be old.
        try:
            with self.file.open("rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None


def node_file(call_file: Path, launch_id: str, number: int) -> Path:
    """The file by which a node has the number `number` of a launch; the launcher's node is 0 and has none."""
    return call_file.with_name(f"launch-{launch_id}-node-{number:05d}.json")


def refusal_file(call_file: Path, launch_id: str) -> Path:
    """Where a node that can't take part says why, for the launcher."""
    return call_file.with_name(f"launch-{launch_id}-refused.json")


def claim(call_file: Path, launch_id: str, num_nodes: int) -> int | None:
    """Takes the first number that no other node has; None where all are taken."""
    for number in range(1, num_nodes):
        try:
            with node_file(call_file, launch_id, number).open("x") as file:
                file.write(socket.gethostname())
        except FileExistsError:
            continue
        return number
    return None


def joined(call_file: Path, launch_id: str, num_nodes: int) -> dict[int, str]:
    """The names of the nodes that have come, by their numbers."""
    names = {}
    for number in range(1, num_nodes):
        with contextlib.suppress(FileNotFoundError):
            # Between taking its number and writing its name a node hasn't come yet.
            if name := node_file(call_file, launch_id, number).read_text():
                names[number] = name
    return names
