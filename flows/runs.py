"""The runs of a home: one folder each, with the resolved recipe, which artifact every task had, the summary and the report."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import yaml

from flows.config import Recipe, make_recipe
from flows.errors import RecipeError
from tasks.nodes import Node
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
        """`running`, `completed`, `failed`, `stopped`; or `crashed` where the process is gone without a word."""
        if self.record["state"] != RUNNING or self._alive is not None:
            return str(self.record["state"])
        try:
            with (self.folder / "alive.lock").open("w") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return RUNNING
        return CRASHED

    @property
    def recipe(self) -> Recipe:
        return make_recipe(yaml.safe_load((self.folder / "recipe.yaml").read_text()))

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifact of every task that finished, by node id."""
        return {name: Artifact.from_json(entry) for name, entry in self.record["tasks"].items()}

    def add(self, node: Node, artifact: Artifact, *, cached: bool, seconds: float) -> None:
        """Record a finished task and link its artifact."""
        self.record["tasks"][node.id] = {**artifact.as_json(), "cached": cached, "seconds": seconds}
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
        self.save()
        if self._alive is not None:
            self._alive.close()
            self._alive = None

    def save(self) -> None:
        write_json(self.folder / "run.json", self.record)


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def start_run(home: Path, recipe: Recipe, about: Mapping[str, Any]) -> Run:
    """A new run's folder. Its lock is held until the process ends, so that a run that died is told from one at work."""
    name = f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    alive = (folder / "alive.lock").open("w")
    fcntl.flock(alive, fcntl.LOCK_EX)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True))
    run = Run(folder, {"run": name, "recipe": recipe.name, "state": RUNNING, "started": now(), **about, "tasks": {}}, alive)
    run.save()
    return run


def all_runs(home: Path) -> list[Run]:
    """Every run of the home, newest first."""
    folders = [path.parent for path in (home / "runs").glob("*/run.json")]
    runs = [Run(folder, read_json(folder / "run.json")) for folder in folders]
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
