"""The runs of a home: one folder each, with the resolved recipe, which artifact every task had, the summary and the report."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from flows.config import Recipe, make_recipe
from flows.errors import RecipeError
from flows.paths import located
from flows.recipe_yaml import dump, read
from tasks.nodes import Node
from tasks.remote import MANIFEST
from tasks.store import Artifact, read_json, write_json

RUNNING = "running"
CRASHED = "crashed"


@dataclass
class Run:
    """A run and its record on disk, which is rewritten whole with every change."""

    folder: Path
    record: dict[str, Any]
    _alive: IO[str] | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def state(self) -> str:
        """`running`, `completed`, `failed`, `stopped`, `cancelled`; or `crashed` where the process is gone without a word."""
        if self.record["state"] != RUNNING or self._alive is not None:
            return str(self.record["state"])
        try:
            # Shared: several may ask at once, and only the run itself holds the lock alone. Nothing is written for it.
            with (self.folder / "alive.lock").open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return RUNNING
        except FileNotFoundError:
            return CRASHED
        return CRASHED

    @property
    def recipe(self) -> Recipe:
        return make_recipe(read((self.folder / "recipe.yaml").read_bytes(), str(self.folder / "recipe.yaml")))

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifact of every task that finished, by node id."""
        return {name: Artifact.from_json(entry) for name, entry in self.record["tasks"].items()}

    def begin(self, node: Node, key: str) -> None:
        """Record which task is at work: its partial work is worth keeping until another run has done it."""
        self.record["working"] = {"stage": node.stage, "key": key}
        self.save()

    def add(self, node: Node, artifact: Artifact, *, cached: bool, seconds: float, other_code: Sequence[str] = ()) -> None:
        """Record a finished task and link its artifact. `other_code` are modules that have changed since it was made."""
        entry = {**artifact.as_json(), "cached": cached, "seconds": seconds}
        self.record["tasks"][node.id] = {**entry, "other_code": list(other_code)} if other_code else entry
        self.record["working"] = None
        link = self.folder / "artifacts" / node.label
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(artifact.path, link.parent))
        for name in ("summary.json", "report.html"):
            if node.stage == "report":
                shutil.copyfile(artifact.path / name, self.folder / name)
        self.save()

    def end(self, state: str) -> None:
        self.record |= {"state": state, "ended": now()}
        self.save(durable=True)
        if self._alive is not None:
            self._alive.close()
            self._alive = None

    def save(self, *, durable: bool = False) -> None:
        write_json(self.folder / "run.json", self.record, durable=durable)


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def start_run(home: Path, recipe: Recipe, about: Mapping[str, Any]) -> Run:
    """A new run's folder. Its lock is held until the process ends, so that a run that died is told from one at work."""
    name = f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    alive = (folder / "alive.lock").open("w")
    fcntl.flock(alive, fcntl.LOCK_EX)
    (folder / "recipe.yaml").write_text(dump(located(recipe).model_dump()))
    run = Run(folder, {"run": name, "recipe": recipe.name, "state": RUNNING, "started": now(), **about, "tasks": {}}, alive)
    run.save()
    return run


def all_runs(home: Path) -> list[Run]:
    """Every run of the home, newest first. A record that a power cut left unreadable is none."""
    runs = []
    for path in (home / "runs").glob("*/run.json"):
        try:
            record = read_json(path)
        except ValueError:
            continue
        for entry in record["tasks"].values():
            # Where the artifacts lie now: the home may have been moved since.
            entry["path"] = str(home / "artifacts" / entry["stage"] / Path(entry["path"]).name)
        runs.append(Run(path.parent, record))
    return sorted(runs, key=lambda run: (run.record["started"], run.id), reverse=True)


def find_run(home: Path, name: str) -> Run:
    """The run of that name, the newest whose name begins so, or `latest`.

    Raises:
        RecipeError: there is none; with the newest there are.
    """
    runs = all_runs(home)
    for run in runs:
        if name == "latest" or run.id == name or run.id.startswith(name):
            return run
    known = ", ".join(run.id for run in runs[:3]) or "none yet"
    raise RecipeError(f"RUN must be a run of {home}, got {name!r}; the newest: {known}; see `bnf runs`")


def last_artifacts(home: Path, recipe: Recipe) -> dict[str, Artifact]:
    """The newest artifact of every task over the runs of the same recipe: what `bnf plan` compares with."""
    found: dict[str, Artifact] = {}
    for run in all_runs(home):
        if run.record["recipe"] == recipe.name:
            found = {**run.artifacts, **found}
    return found


@dataclass(frozen=True)
class RunSize:
    """Bytes of the artifacts that a run names, and of those that no other run names."""

    artifacts: int
    own: int


def run_sizes(runs: Sequence[Run]) -> dict[str, RunSize]:
    """How much each run holds, by its artifacts' manifests; what is gone or unreadable counts nothing."""
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
