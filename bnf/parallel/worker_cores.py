"""Cores that several workers of a machine share out among themselves."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from bnf.host import own_cores


def stay_on_cores(number: int) -> list[IO[bytes]]:
    """Keep this process on cores on which no other worker is, and hold these by locked files. Where so few are free, it stays on all,
    and says so."""
    held: dict[int, IO[bytes]] = {}
    cores = own_cores()
    if number == 0 or number >= len(cores) or not hasattr(os, "sched_setaffinity"):
        return []
    folder = Path(tempfile.gettempdir()) / f"bnf-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        raise ValueError(
            f"{folder} must be this user's own folder, got another one's, who may read and hinder; remove it, or set TMPDIR"
        )
    for core in cores:
        file: IO[bytes] = os.fdopen(os.open(folder / str(core), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        held[core] = file
        if len(held) == number:
            # Threads that are there already have their own.
            for thread in os.listdir("/proc/self/task"):
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread), held)
            return list(held.values())
    print(
        f"a worker is to have {number} cores of its own, and {len(held)} of {len(cores)} are free: it computes on all of them, beside "
        f"others ({folder} has a locked file for each that is taken)",
        flush=True,
    )
    for file in held.values():
        file.close()
    return []
