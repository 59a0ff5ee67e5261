"""What room the runs of a home take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.records import read_json
from flows.runs.record import Run
from tasks.manifest import MANIFEST


@dataclass(frozen=True)
class RunSize:
    """Bytes of the artifacts that a run names, and of those among them that no other run names."""

    artifacts: int
    own: int


def run_sizes(runs: Sequence[Run]) -> dict[str, RunSize]:
    """The size of each run's artifacts, as their manifests say it. An artifact without a readable manifest counts as 0 bytes."""
    named = {run.id: {artifact.path for artifact in run.artifacts.values()} for run in runs}
    users = Counter(path for paths in named.values() for path in paths)
    bytes_of = {path: _bytes(path) for path in users}
    return {
        name: RunSize(sum(bytes_of[path] for path in paths), sum(bytes_of[path] for path in paths if users[path] == 1))
        for name, paths in named.items()
    }


def bytes_freed(runs: Sequence[Run], groups: Sequence[Collection[str]]) -> list[int]:
    """Of each group of runs (by their names) the bytes of the artifacts that no run outside it names: what dropping the group frees."""
    named = {run.id: {artifact.path for artifact in run.artifacts.values()} for run in runs}
    users = Counter(path for paths in named.values() for path in paths)
    found = []
    for group in groups:
        of_group = Counter(path for name in group for path in named[name])
        found.append(sum(_bytes(path) for path, number in of_group.items() if users[path] == number))
    return found


def sharing(runs: Sequence[Run], some: Sequence[Run]) -> list[str]:
    """The other runs that name artifacts of some runs too."""
    ids, paths = {run.id for run in some}, {artifact.path for run in some for artifact in run.artifacts.values()}
    return [run.id for run in runs if run.id not in ids and not paths.isdisjoint(one.path for one in run.artifacts.values())]


def _bytes(artifact: Path) -> int:
    try:
        return sum(entry["size"] for entry in read_json(artifact / MANIFEST)["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0
