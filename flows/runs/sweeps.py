"""The sweeps of a home: a folder each, with the record of its runs, the tables and the page."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from evaluation.records import Record, read_json
from flows.errors import RecipeError
from flows.runs.record import CRASHED, RUNNING, now
from tasks.store import write_json

_FILE, _LOCK = "sweep.json", "alive.lock"
# States of a sweep's run that begins later, or was left out because something else ended the sweep.
WAITING = "waiting"


@dataclass
class SweepRun:
    """A run of a sweep: its name, its value on each axis, and the runs of the home that it was, the newest last: with `select` settings are
    trained first, and those that are chosen are run once more, evaluation included. `why` is the message of what failed, and `is_collapsed`
    whether that was a collapse of its training.
    """

    name: str
    settings: Mapping[str, object]
    runs: list[str] = field(default_factory=list)
    state: str = WAITING
    why: str | None = None
    is_collapsed: bool = False


@dataclass
class SweepRecord:
    """What `sweep.json` holds. It is written whole with every change, and outlasts a power cut.

    Attributes:
        command: what runs the sweep, or goes on with it.
        axes: the values of every axis by recipe key.
        select: how settings are chosen, as the sweep's file says it; None where they aren't.
        chosen: what was chosen, with every candidate's dev values, once it is.
        how: how that was decided, in words.
    """

    sweep: str
    file: str
    command: str
    axes: Mapping[str, Sequence[object]]
    select: Mapping[str, object] | None
    runs: list[SweepRun]
    state: str = RUNNING
    started: str = field(default_factory=now)
    ended: str | None = None
    flow_run_id: str | None = None
    chosen: list[Record] = field(default_factory=list)
    how: str | None = None

    @property
    def failed(self) -> list[SweepRun]:
        """The runs without a result: those that failed, or that somebody cancelled."""
        return [run for run in self.runs if run.why is not None]

    @classmethod
    def from_json(cls, value: Record) -> SweepRecord:
        return cls(**{**value, "runs": [SweepRun(**run) for run in value["runs"]]})


@dataclass
class SweepFolder:
    """A sweep and its record on disk."""

    folder: Path
    record: SweepRecord

    @property
    def id(self) -> str:
        return self.folder.name

    def read_again(self) -> SweepFolder:
        """The sweep as its record has it now."""
        return SweepFolder(self.folder, SweepRecord.from_json(read_json(self.folder / _FILE)))

    @property
    def state(self) -> str:
        """`running`, `completed`, `failed`, `stopped`, `cancelled`; or `crashed` where the process has ended without recording how."""
        if self.record.state != RUNNING:
            return self.record.state
        try:
            with (self.folder / _LOCK).open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return RUNNING
        except FileNotFoundError:
            return CRASHED
        # It may have ended between the look at its record and the look at its lock.
        state = self.read_again().record.state
        return CRASHED if state == RUNNING else state

    @property
    def where(self) -> str:
        """The state, as a run's `where` has it in words."""
        return self.state

    def save(self) -> None:
        write_json(self.folder / _FILE, asdict(self.record), durable=True)

    def end(self, state: str) -> None:
        """Record how the sweep ended, and with it the runs that were at work."""
        self.record.state, self.record.ended = state, now()
        for run in self.record.runs:
            run.state = state if run.state == RUNNING else run.state
        self.save()


@contextlib.contextmanager
def begun(home: Path, record: SweepRecord) -> Iterator[SweepFolder]:
    """The sweep's folder with a new record, kept from other sweeps of that name until the `with` is left.

    Raises:
        RecipeError: a sweep of that name is at work.
    """
    folder = home / "sweeps" / record.sweep
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as alive:
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(
                f"name must be another than that of a sweep at work in {home}, got {record.sweep!r}; wait for it, or write name=…"
            ) from None
        # The runs that the sweep began earlier stay its runs.
        earlier = find_sweep(home, record.sweep)
        known = {run.name: run for run in earlier.record.runs} if earlier is not None else {}
        for run in record.runs:
            # Names that are numbers stand for other settings where the file was changed.
            same = known.get(run.name)
            runs = same.runs if same is not None and same.settings == run.settings else ()
            run.runs = [name for name in runs if (home / "runs" / name).is_dir()]
        found = SweepFolder(folder, record)
        found.save()
        yield found


def all_sweeps(home: Path) -> list[SweepFolder]:
    """Every sweep of the home. A record that can't be read is left out: no run depends on it."""
    found = []
    for path in sorted((home / "sweeps").glob(f"*/{_FILE}")):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found.append(SweepFolder(path.parent, SweepRecord.from_json(read_json(path))))
    return found


def sweep_of(home: Path) -> dict[str, str]:
    """The sweep of each run of the home that belongs to one, by the run's id."""
    return {run: sweep.record.sweep for sweep in all_sweeps(home) for point in sweep.record.runs for run in point.runs}


def find_sweep(home: Path, name: str) -> SweepFolder | None:
    """The sweep of that name; None where there is none."""
    return next((sweep for sweep in all_sweeps(home) if sweep.record.sweep == name), None)
