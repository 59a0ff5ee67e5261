"""The runs of a home: a folder each, with the recipe, the record of its tasks, the summary and the report."""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO

from bnf.files import replacing
from bnf.plain_yaml import dump
from bnf.urls import settings_without_secrets, without_secrets
from evaluation.records import read_json
from flows.errors import RecipeError
from flows.recipe.config import LATEST, Recipe, make_recipe, read_values
from flows.recipe.paths import located, without_signatures
from flows.runs.disk import must_take
from flows.runs.naming import difference
from flows.runs.owner import LOCK, sign
from flows.runs.run_json import RunRecord, TaskRecord, Working
from tasks.nodes import Node
from tasks.store import Artifact, write_json

RECORD = "run.json"
RUNNING = "running"
CRASHED = "crashed"
_GOES_ON = "what is complete stays, and the next run goes on from it"


@dataclass
class Run:
    """A run and its record on disk, which is rewritten whole with every change."""

    folder: Path
    record: RunRecord
    _alive: IO[str] | None = field(default=None, repr=False)
    _places: Mapping[str, int] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str:
        return self.folder.name

    def read_again(self) -> Run:
        """The run as its record has it now."""
        return find_run(self.folder.parents[1], self.id)

    @property
    def state(self) -> str:
        """`running`, `completed`, `failed`, `stopped`, `cancelled`; or `crashed` where the process has ended without recording how."""
        if self.record.state != RUNNING or self._alive is not None:
            return self.record.state
        try:
            # Several may ask at once: they share the lock, which the run alone holds exclusively. Nothing is written.
            with (self.folder / LOCK).open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return RUNNING
        except (FileNotFoundError, IsADirectoryError):
            return CRASHED
        # It may have ended between the look at its record and the look at its lock.
        record = self._now()
        return CRASHED if record is None or record.state == RUNNING else record.state

    @property
    def where(self) -> str:
        """The state; for a run that ended early, also the tasks that were at work and why it ended."""
        state, why = self.state, self.record.why
        if state in (RUNNING, "completed"):
            return state
        tasks = ", ".join(working.task for working in self.record.at_work)
        return state + (f" in {tasks}" if tasks else "") + (f": {why}" if why else "")

    @property
    def written_recipe(self) -> dict[str, object]:
        """The recipe as the run wrote it down, whether it is valid today or not."""
        file = self.folder / "recipe.yaml"
        return read_values(file, str(file))

    @property
    def recipe(self) -> Recipe:
        return make_recipe(self.written_recipe)

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifact of every task that finished, by node id."""
        return {name: task.artifact for name, task in self.record.tasks.items()}

    def known_as(self, flow_run_id: str) -> None:
        """Record the run's id on the Prefect server."""
        self.record.flow_run_id = flow_run_id
        self.save()

    def plan(self, nodes: Iterable[Node]) -> None:
        """Say in which order the run's tasks are planned."""
        self._places = {name: place for place, node in enumerate(nodes) for name in (node.id, node.label)}

    def begin(self, node: Node, key: str) -> None:
        """Record that a task is at work."""
        at_work = [*self.record.at_work, Working(node.stage, key, node.label)]
        self.record.at_work = sorted(at_work, key=lambda working: self._place(working.task))
        self.save()

    def add(
        self,
        node: Node,
        artifact: Artifact,
        *,
        cached: bool,
        seconds: float,
        other_code: Sequence[str] = (),
        started: str | None = None,
        ended: str | None = None,
    ) -> None:
        """Record a finished task and link its artifact; of a report also copy the files that people open, and link its pages of items.

        Raises:
            OSError: the disk is full, or read-only; the artifact stays.
        """
        tasks = {**self.record.tasks, node.id: TaskRecord(artifact, cached, seconds, other_code, started, ended)}
        self.record.tasks = dict(sorted(tasks.items(), key=lambda entry: self._place(entry[0])))
        self.record.at_work = [working for working in self.record.at_work if working.task != node.label]
        with must_take(self.folder, "the run's links and report", _GOES_ON):
            self._link(node, artifact)
        self.save()

    def _link(self, node: Node, artifact: Artifact) -> None:
        link = self.folder / "artifacts" / node.label
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(artifact.path, link.parent))
        if node.stage == "report":
            for name in ("summary.json", "report.html"):
                with replacing(self.folder / name, durable=True) as partial:
                    shutil.copyfile(artifact.path / name, partial)
            # The report's links lead there. These pages are large: they are no copies.
            if (artifact.path / "items").is_dir():
                pages = self.folder / "items"
                pages.unlink(missing_ok=True)
                pages.symlink_to(os.path.relpath(artifact.path / "items", self.folder))

    def end(self, state: str, why: str | None = None) -> None:
        """Record how the run ended; `why` is the message of what ended it."""
        self.record.state, self.record.ended = state, now()
        self.record.why = None if why is None else without_secrets(why)
        try:
            self.save()
        finally:
            if self._alive is not None:
                self._alive.close()
                self._alive = None

    def end_crashed(self) -> None:
        """Record that the run's process is gone, unless it has ended otherwise since this record was read."""
        record = self._now()
        if record is not None and record.state == RUNNING:
            self.record = record
            self.end(CRASHED)

    def _now(self) -> RunRecord | None:
        """The record as the file has it now; None where it is there no more, as after `bnf rm`."""
        try:
            return read_record(self.folder / RECORD, self.folder.parents[1])
        except (ValueError, OSError):
            return None

    def _place(self, name: str) -> int:
        # What no plan names keeps its place.
        return self._places.get(name, len(self._places))

    def save(self) -> None:
        """Write the record.

        Raises:
            OSError: the disk is full, or read-only; the record before stays.
        """
        with must_take(self.folder, "the run's record", _GOES_ON):
            write_json(self.folder / RECORD, self.record.to_json(), durable=True)


def now(precision: str = "seconds") -> str:
    return datetime.now().astimezone().isoformat(timespec=precision)


def start_run(
    home: Path,
    recipe: Recipe,
    flow_run_id: str | None,
    overrides: Mapping[str, object] | None = None,
    changed: Mapping[str, object] | None = None,
) -> Run:
    """Make a new run's folder, whose name begins with the recipe's and says what the run changed of it.

    Its lock is held until the process ends, so that a run that died is told from one at work.

    Args:
        flow_run_id: the run's id on the Prefect server; None where it is not known there yet.
        overrides: what was asked for besides the recipe, for the record.
        changed: the recipe keys that it sets otherwise than its recipe's file.

    Raises:
        OSError: the disk is full, or read-only.
    """
    name = f"{recipe.name}{difference(changed or {})}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = home / "runs" / name
    with must_take(home, "a run's folder", _GOES_ON):
        folder.mkdir(parents=True)
        alive = (folder / LOCK).open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)
        sign(alive)
        with replacing(folder / "recipe.yaml", durable=True) as partial:
            if without_signatures(recipe) != recipe:
                # A URL in it may have a signature, without which its file isn't read again.
                partial.touch(mode=0o600)
            partial.write_text(dump(located(recipe).model_dump()))
    said = settings_without_secrets(changed or {})
    run = Run(folder, RunRecord(name, recipe.name, RUNNING, now(), flow_run_id, overrides, said), alive)
    run.save()
    return run


def all_runs(home: Path) -> list[Run]:
    """Every run of the home, newest first. A record that can't be read is left out: `unreadable_records` has it."""
    return read_runs(home)[0]


def unreadable_records(home: Path) -> dict[Path, str]:
    """The files of the records that can't be read, as a power cut or a person may have left them, and why not."""
    return read_runs(home)[1]


def read_runs(home: Path) -> tuple[list[Run], dict[Path, str]]:
    """The runs of `all_runs`, and the files of `unreadable_records`."""
    runs, unreadable = [], {}
    for path in sorted((home / "runs").glob(f"*/{RECORD}")):
        try:
            runs.append(Run(path.parent, read_record(path, home)))
        except FileNotFoundError:
            continue  # `bnf rm` has just dropped it
        except (ValueError, OSError) as error:
            unreadable[path] = str(error)
    return sorted(runs, key=_age, reverse=True), unreadable


def read_record(path: Path, home: Path) -> RunRecord:
    """What a file says of a run.

    Raises:
        OSError: it can't be read.
        ValueError: it isn't a run's record.
    """
    try:
        record = RunRecord.from_json(read_json(path), home)
        if wrong := [name for name in ("run", "recipe", "state", "started") if not isinstance(getattr(record, name), str)]:
            raise ValueError(f"{path} must be a run's record, got one whose {wrong[0]} is no text")
        if not isinstance(record.changed, dict):
            raise ValueError(f"{path} must be a run's record, got one whose changed is no mapping of keys")
        for name, time in (("started", record.started), ("ended", record.ended)):
            if time is not None and datetime.fromisoformat(time).tzinfo is None:
                raise ValueError(f"{path} must be a run's record, got one whose {name} has no time zone")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must be a run's record, got one without what it needs ({error})") from error
    return record


def _age(run: Run) -> tuple[datetime, str]:
    return datetime.fromisoformat(run.record.started), run.id


@dataclass(frozen=True)
class Need:
    """What a command needs of a run: its name in messages, and whether a run has it."""

    what: str
    met: Callable[[Run], bool]


SCORES = Need("scores", lambda run: any(artifact.stage == "score" for artifact in run.artifacts.values()))
COMPARABLE = Need("scores or a dev set", lambda run: SCORES.met(run) or _has_dev_set(run))
REPORT = Need("a report", lambda run: (run.folder / "report.html").exists())


def described(run: Run, need: Need | None = None) -> str:
    """A run with its state, and where something is needed of it, that its recipe can't be read."""
    if need is not None:
        try:
            need.met(run)
        except (RecipeError, OSError):
            return f"{run.id} ({run.state}, with a recipe.yaml that can't be read)"
    return f"{run.id} ({run.state})"


def _has(run: Run, need: Need) -> bool:
    """Whether a run has what is needed. One whose recipe can't be read is passed over, as it has nothing to show."""
    try:
        return need.met(run)
    except (RecipeError, OSError):
        return False


def _has_dev_set(run: Run) -> bool:
    return run.recipe.prepare.dev_fraction > 0 and any(artifact.stage == "train" for artifact in run.artifacts.values())


def find_run(home: Path, name: str, need: Need | None = None) -> Run:
    """The run that a name stands for: a run's own name, its recipe's (the newest run of that recipe), or the beginning of one run's name.

    `latest` is the newest run. With a recipe's name or `latest`, runs that don't have what is needed are passed over.

    Raises:
        RecipeError: the name is empty, no run fits, several names begin so, or no run that fits has what is needed. The message lists
            the candidates.
    """
    if not name.strip():
        # Every name begins with nothing: `bnf rm "$RUN" --yes` with no value in RUN would drop the only run.
        raise RecipeError(f"RUN must be a run's name, got {name!r}; write latest for the newest one, or see `bnf runs`")
    runs = all_runs(home)
    fit = [run for run in runs if run.id == name]
    if fit:
        return fit[0]
    fit = runs if name == LATEST else [run for run in runs if run.record.recipe == name]
    for run in fit:
        if need is None or _has(run, need):
            return run
    if fit and need is not None:
        raise RecipeError(
            f"RUN must have {need.what}, got {name!r}: {_listed(fit, need)}, none of which has any; see `bnf runs`"
        )
    begun = [run for run in runs if run.id.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise RecipeError(
            f"RUN must name one run, got {name!r}, with which {len(begun)} begin: {_listed(begun)}; write more of it"
        )
    newest = f"the newest: {_listed(runs)}; see `bnf runs`" if runs else "it has none; one is there once its checks have passed"
    raise RecipeError(f"RUN must be a run of {home}, got {name!r}; {newest}, or name another home by BNF_HOME")


def passed_over(home: Path, name: str, run: Run) -> list[Run]:
    """The newer runs that `name` fits too, and that `find_run` passed over because they lack what was needed."""
    fit = [one for one in all_runs(home) if name in (LATEST, one.record.recipe) and name != run.id]
    return list(itertools.takewhile(lambda one: one.id != run.id, fit))


def _listed(runs: Sequence[Run], need: Need | None = None, most: int = 8) -> str:
    names = [described(run, need) for run in runs[:most]]
    return ", ".join([*names, *([f"and {len(runs) - most} more"] if len(runs) > most else [])])


def last_artifacts(home: Path, recipe: Recipe) -> dict[str, Artifact]:
    """The newest artifact of every task, from the runs of the same recipe: what `bnf plan` compares with."""
    found: dict[str, Artifact] = {}
    for run in all_runs(home):
        if run.record.recipe == recipe.name:
            found = {**run.artifacts, **found}
    return found
