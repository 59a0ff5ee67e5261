"""What earlier runs of a home did: which of them made an artifact."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from evaluation.formats import duration
from flows.runs.record import all_runs
from flows.runs.run_json import TaskRecord
from tasks.store import Artifact


class Makers:
    """Which run of a home made an artifact, by the runs' records; they are read when the first one is asked for."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._makers: dict[str, tuple[str, TaskRecord]] | None = None

    def described(self, artifact: Artifact) -> str:
        """An artifact that a run takes, in words: what it is, and in which run it was made."""
        if self._makers is None:
            # Newest first: where a later run made the same bits again, the first one's folder is still the artifact.
            self._makers = {
                task.artifact.folder: (run.id, task)
                for run in all_runs(self._home)
                for task in run.record.tasks.values()
                if not task.cached
            }
        known = self._makers.get(artifact.folder)
        what = f"cached: {artifact.path} (fingerprint {artifact.fingerprint})"
        if known is None:
            return f"{what}, made by no run that this home still has"
        run, task = known
        when = f" on {datetime.fromisoformat(task.ended).isoformat(' ', 'seconds')}" if task.ended else ""
        return f"{what}, made in run {run}{when} in {duration(task.seconds)}"
