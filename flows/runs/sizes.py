"""What room the runs of a home take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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


def _bytes(artifact: Path) -> int:
    try:
        return sum(entry["size"] for entry in read_json(artifact / MANIFEST)["files"].values())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0
