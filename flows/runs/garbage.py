"""`bnf gc`: drop what no run names, as older artifacts of a forced stage. `bnf rm`: drop runs, with what they alone name."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from flows.errors import RecipeError
from flows.runs.home import require_writable
from flows.runs.owner import LOCK
from flows.runs.record import RECORD, RUNNING, Run, all_runs, unreadable_records
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
    return _alone(home, dry_run, "gc", lambda: _collect(home, dry_run))


def remove(home: Path, runs: Sequence[Run], *, dry_run: bool) -> list[Dropped]:
    """Drop runs, with the artifacts and the partial work that no other run names. What other runs use, and a shared store, stay.

    Returns:
        The artifacts and partial work that were dropped, or with `dry_run` would be, by what all runs name at this moment.

    Raises:
        RecipeError: one of these runs, or another one, is at work and it is no dry run; or a record can't be read.
    """
    names = {run.id for run in runs}
    if dry_run:
        _require_records(home, "rm")
        return _remove(home, names, dry_run)
    _require_ended(runs)
    return _alone(home, dry_run, "rm", lambda: _remove(home, names, dry_run))


def in_the_way(home: Path, runs: Sequence[Run]) -> str | None:
    """Why these runs can't be dropped now: one of them, or something else of the home, is at work. None where nothing is in the way."""
    try:
        _require_ended(runs)
        _alone(home, True, "rm", lambda: [])
    except RecipeError as error:
        return str(error)
    return None


def _require_ended(runs: Sequence[Run]) -> None:
    if at_work := [run.id for run in runs if run.state == RUNNING]:
        raise RecipeError(f"RUN must have ended, got {', '.join(at_work)} at work; cancel it first: `bnf cancel {at_work[0]}`")


def _alone(home: Path, dry_run: bool, command: str, work: Callable[[], list[Dropped]]) -> list[Dropped]:
    """Work on the home while no run is at work."""
    lock = lock_file(home)
    if not home.exists() or (dry_run and not lock.exists()):
        # No run was ever at work here, and to look nothing is written.
        return work()
    _require_records(home, command)
    if not dry_run:
        require_writable(home)
    with lock.open("r" if dry_run else "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(
                f"{command} must have {home} for itself, got a run or another {command} at work there, a chat, an export, or a worker "
                "on Ray of another machine's run; wait for it, or end it"
            ) from None
        return work()


def _require_records(home: Path, command: str) -> None:
    """Refuse to drop anything while a run's record can't be read: what it names would look like what no run names."""
    for file, reason in unreadable_records(home).items():
        raise RecipeError(
            f"{command} must know what every run names, got {file}, which can't be read ({reason}); bring it back, or delete "
            f"{file.parent} to give up what that run alone names"
        )


def _remove(home: Path, names: set[str], dry_run: bool) -> list[Dropped]:
    removed = [run for run in all_runs(home) if run.id in names]
    others = [run for run in all_runs(home) if run.id not in names]
    kept, unfinished = _named(others), _unfinished(others)
    artifacts, partial = _named(removed) - kept, _unfinished(removed) - unfinished
    store = Store(home / "artifacts")
    folders = [
        folder
        for folder in sorted(store.root.glob("*/*"))
        if folder.is_dir() and (folder.name in artifacts or (folder.name not in kept and folder.name.split(".")[0] in partial))
    ]
    if not dry_run:
        for run in removed:
            _drop_run(run.folder)
    return [_dropped(store, folder, home, dry_run) for folder in folders]


def _collect(home: Path, dry_run: bool) -> list[Dropped]:
    runs = all_runs(home)
    named, unfinished = _named(runs), _unfinished(runs)
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
        dropped.append(_dropped(store, folder, home, dry_run))
    if not dry_run:
        for folder in (home / "runs").glob("*"):
            if _is_left(folder):
                _drop_run(folder)
    return dropped


def _is_left(folder: Path) -> bool:
    """Whether a folder is what is left of a run that was being dropped. Others without a record are a person's."""
    return (folder / LOCK).is_file() and not (folder / RECORD).exists()


def _drop_run(folder: Path) -> None:
    """Delete a run's folder: the record first, so that after a kill the rest is no run, and last the lock, by which gc knows that rest."""
    (folder / RECORD).unlink(missing_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    (folder / LOCK).unlink(missing_ok=True)
    folder.rmdir()


def _named(runs: Sequence[Run]) -> set[str]:
    """The names of the artifacts' folders that these runs name."""
    return {artifact.path.name for run in runs for artifact in run.artifacts.values()}


def _unfinished(runs: Sequence[Run]) -> set[str]:
    """The keys that these runs were at when they ended."""
    return {working.key for run in runs for working in run.record.at_work}


def _dropped(store: Store, folder: Path, home: Path, dry_run: bool) -> Dropped:
    """Drop a folder of the store unless it is a dry run, and say what it was."""
    size = _bytes(folder)
    if not dry_run:
        _drop(store, folder, home / "prefect" / "records")
    return {"stage": folder.parent.name, "folder": folder.name, "bytes": size}


def _bytes(folder: Path) -> int:
    """What a folder holds. A dry run may look while a run is at work there, whose files come and go."""
    found = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found += os.stat(os.path.join(inside, name)).st_size
    return found


def _drop(store: Store, folder: Path, records: Path) -> None:
    """Delete a folder, manifest first, so that after a kill the rest is no artifact; then the files that point to it."""
    stage, key = folder.parent.name, folder.name.split(".")[0]
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder)
    if store.problem(stage, key) is not None:
        for path in (store.root / stage / f"{key}.json", store.root / stage / f"{key}.lock", records / f"{stage}-{key}.json"):
            path.unlink(missing_ok=True)
