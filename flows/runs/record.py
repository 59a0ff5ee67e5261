"""The runs of a home: one folder each, with the resolved recipe, which artifact every task had, the summary and the report."""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from bnf.plain_yaml import dump
from evaluation.records import read_json
from flows.dag.on_policy import policy_node
from flows.errors import RecipeError
from flows.recipe.config import LATEST as LATEST
from flows.recipe.config import Recipe, make_recipe, read_values
from flows.recipe.paths import located
from tasks.nodes import Node
from tasks.remote import MANIFEST
from tasks.store import Artifact, write_json

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
    def where(self) -> str:
        """The state, and of a run that ended early the task that was at work and why."""
        state, working, why = self.state, self.record.get("working"), self.record.get("why")
        if state in (RUNNING, "completed"):
            return state
        task = working.get("task", working["stage"]) if working else ""
        return state + (f" in {task}" if task else "") + (f": {why}" if why else "")

    @property
    def recipe(self) -> Recipe:
        return make_recipe(_written(self.folder))

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifact of every task that finished, by node id."""
        return {name: Artifact.from_json(entry) for name, entry in self.record["tasks"].items()}

    def begin(self, node: Node, key: str) -> None:
        """Record which task is at work: its partial work is worth keeping until another run has done it."""
        self.record["working"] = {"stage": node.stage, "key": key, "task": node.label}
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

    def end(self, state: str, why: str | None = None) -> None:
        """Record how the run ended; `why` is the message of what ended it."""
        self.record |= {"state": state, "ended": now(), "why": why}
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
    return sorted(runs, key=_age, reverse=True)


def _age(run: Run) -> tuple[datetime, str]:
    return datetime.fromisoformat(run.record["started"]), run.id


@dataclass(frozen=True)
class Need:
    """What a command needs of a run: in words, and whether a run has it."""

    what: str
    met: Callable[[Run], bool]


SCORES = Need("scores", lambda run: any(name.startswith("score/") for name in run.artifacts))
COMPARABLE = Need("scores or a dev set", lambda run: SCORES.met(run) or _has_dev_set(run))
# A recipe that trains nothing names the model.
MODELS = Need("an aligned model", lambda run: run.recipe.train is None or policy_node(run.recipe) in run.artifacts)
REPORT = Need("a report", lambda run: (run.folder / "report.html").exists())


def _has_dev_set(run: Run) -> bool:
    return run.recipe.prepare.dev_fraction > 0 and any(name.split("/")[0] == "train" for name in run.artifacts)


def find_run(home: Path, name: str, need: Need | None = None) -> Run:
    """The run of that very name; else the newest run of the recipe of that very name; else the one run whose name begins so.

    `latest` is the newest run. Where several runs fit a recipe's name or `latest`, those without what is needed are passed over.

    Raises:
        RecipeError: there is none, several begin so, or none of those that fit has what is needed; with the candidates.
    """
    runs = all_runs(home)
    fit = [run for run in runs if run.id == name]
    if fit:
        return fit[0]
    fit = runs if name == LATEST else [run for run in runs if run.record["recipe"] == name]
    for run in fit:
        if need is None or need.met(run):
            return run
    if fit and need is not None:
        raise RecipeError(f"RUN must have {need.what}, got {name!r}: {_listed(fit)}, none of which has any; see `bnf runs`")
    begun = [run for run in runs if run.id.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise RecipeError(
            f"RUN must name one run, got {name!r}, with which {len(begun)} begin: {_listed(begun)}; write more of it"
        )
    raise RecipeError(f"RUN must be a run of {home}, got {name!r}; the newest: {_listed(runs) or 'none yet'}; see `bnf runs`")


def passed_over(home: Path, name: str, run: Run) -> list[Run]:
    """The newer runs that `name` fits as well as the one that `find_run` took, and that lack what was needed."""
    fit = [one for one in all_runs(home) if name in (LATEST, one.record["recipe"]) and name != run.id]
    return list(itertools.takewhile(lambda one: one.id != run.id, fit))


def _listed(runs: Sequence[Run], most: int = 8) -> str:
    names = [f"{run.id} ({run.state})" for run in runs[:most]]
    return ", ".join([*names, *([f"and {len(runs) - most} more"] if len(runs) > most else [])])


def _written(folder: Path) -> Any:
    """The recipe as the run wrote it down."""
    file = folder / "recipe.yaml"
    return read_values(file, str(file))


def settings(run: Run) -> dict[str, Any]:
    """The recipe that a run ran, by dotted keys: as it was written down, valid today or not."""
    return dotted(_written(run.folder))


def dotted(recipe: Any) -> dict[str, Any]:
    """A recipe's plain values by dotted keys."""
    return dict(_leaves(recipe, ""))


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The settings inside a value; the entries of a list of mappings are told apart by their place."""
    inside: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        inside = enumerate(value)
    if not inside:
        yield key, value
    for name, entry in inside:
        yield from _leaves(entry, f"{key}.{name}" if key else str(name))


def differing_settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The recipe keys that are not the same in all runs, each with every run's value; None where its recipe has none.

    The recipes' names are left out: they are the runs' own.
    """
    of = {run.id: settings(run) for run in runs}
    keys = dict.fromkeys(key for values in of.values() for key in values if key != "name")
    found = {key: {name: values.get(key) for name, values in of.items()} for key in keys}
    return [{"key": key, "values": values} for key, values in found.items() if len(set(map(repr, values.values()))) > 1]


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
