"""`bnf gc`: drop what no run names, which is older artifacts of a forced stage, those of deleted runs, and stale partial work."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import TypedDict

from flows.errors import RecipeError
from flows.runs.home import require_writable
from flows.runs.record import all_runs
from tasks.home_lock import lock_file
from tasks.store import Store


class Dropped(TypedDict):
    """A folder that goes: its stage, its name, its bytes."""

    stage: str
    folder: str
    bytes: int


def collect(home: Path, *, dry_run: bool) -> list[Dropped]:
    """Drop every artifact of this home that no run names, and partial work that no run would continue.

    Returns:
        What was dropped, or with `dry_run` would be.

    Raises:
        RecipeError: a run, or a worker on Ray, is at work.
    """
    lock = lock_file(home)
    if not home.exists() or (dry_run and not lock.exists()):
        # No run was ever at work here, and to look nothing is written.
        return _collect(home, dry_run)
    if not dry_run:
        require_writable(home)
    with lock.open("r" if dry_run else "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(
                f"gc must have {home} for itself, got a run or another gc at work there, or a worker on Ray of another machine's run; "
                "wait for it, or cancel the run"
            ) from None
        return _collect(home, dry_run)


def _collect(home: Path, dry_run: bool) -> list[Dropped]:
    runs = all_runs(home)
    named = {artifact.path.name for run in runs for artifact in run.artifacts.values()}
    unfinished = {working.key for run in runs for working in run.record.at_work}
    store = Store(home / "artifacts")
    dropped: list[Dropped] = []
    for folder in sorted(path for path in store.root.glob("*/*") if path.is_dir()):
        key = folder.name.split(".")[0]
        if folder.name.endswith(".work"):
            # Partial work of a key that another run has finished since is of no use.
            keep = key in unfinished and store.find(folder.parent.name, key) is None
        else:
            # A run may have died between making an artifact and naming it. The next run takes it.
            keep = folder.name in named or (key in unfinished and not folder.name.endswith(".part"))
        if keep:
            continue
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        dropped.append({"stage": folder.parent.name, "folder": folder.name, "bytes": size})
        if not dry_run:
            _drop(store, folder, home / "prefect" / "records")
    return dropped


def _drop(store: Store, folder: Path, records: Path) -> None:
    """Delete a folder, manifest first, so that after a kill the rest is no artifact; then the files that point to it."""
    stage, key = folder.parent.name, folder.name.split(".")[0]
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder)
    if store.problem(stage, key) is not None:
        for path in (store.root / stage / f"{key}.json", store.root / stage / f"{key}.lock", records / f"{stage}-{key}.json"):
            path.unlink(missing_ok=True)
