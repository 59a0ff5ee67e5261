"""Disks that take nothing: places that nobody can write, and places that are full."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def unwritable(place: Path) -> Iterator[None]:
    """Nobody can write there, root neither."""
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "a-w", str(place)], check=True)
        try:
            yield
        finally:
            subprocess.run(["chmod", "-R", "u+w", str(place)], check=True)
        return
    with _mounted(place, "--bind", str(place)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        yield


@contextlib.contextmanager
def full(place: Path) -> Iterator[None]:
    """A disk at an empty place on which nothing is free any more. Files can be made there, and hold nothing."""
    with _mounted(place, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        with contextlib.suppress(OSError), (place / "filling").open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        yield


@contextlib.contextmanager
def _mounted(place: Path, *how: str) -> Iterator[None]:
    if subprocess.run(["mount", *how, str(place)], capture_output=True).returncode:
        pytest.skip("a disk of its own needs a mount, which nobody but root can make, and not everywhere")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)
