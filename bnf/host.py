"""The memory of this machine that is free, as far as the system says: without swapping, and within
the limit of the container. And its cores."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def own_cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def total_memory() -> int | None:
    """Bytes of this machine's memory, or of the container's, in whole GB; None where the system doesn't say."""
    if not _MEMINFO.exists():
        return None
    fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    total, file = int(fields["MemTotal"].split()[0]) * 1024, _CGROUP / "memory.max"
    limit = file.read_text().strip() if file.is_file() else "max"
    return round(total if limit == "max" else min(total, int(limit)), -9)


def available_memory() -> int | None:
    """Bytes of memory that are free; None where the system doesn't say."""
    if not _MEMINFO.exists():
        return None
    fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limited = _left_in_container(_CGROUP)
    return free if limited is None else min(free, limited)


def _left_in_container(folder: Path) -> int | None:
    """Bytes that the control group (version 2) leaves to its processes; None where it sets no limit."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    # Pages of files that nobody reads are given back where memory is short.
    return max(0, int(limit) - int(used) + int(stat.get("inactive_file", 0)))
