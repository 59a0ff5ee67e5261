"""Who is at work in a home: runs, and workers on Ray that read its artifacts. Meanwhile `bnf gc` drops nothing."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def using(home: Path) -> Iterator[None]:
    """Keep `bnf gc` away while something is at work: artifacts that it has found, but that no run names yet, must stay."""
    file = lock_file(home)
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        file.touch()
    # Opened to be read: what only reads, as an export, works in a home that is another person's, or on a disk that is read-only.
    with file.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def lock_file(home: Path) -> Path:
    """The file that those at work hold locked, shared, and `bnf gc` for itself alone."""
    return home / "gc.lock"
