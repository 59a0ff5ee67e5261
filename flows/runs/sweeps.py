"""The sweeps of a home: a folder each, with the record of its runs, the tables and the page."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from evaluation.records import Record, read_json
from flows.errors import RecipeError
from flows.runs.disk import must_take
from flows.runs.owner import LOCK, sign
from flows.runs.record import CRASHED, RUNNING, now
from tasks.store import write_json

_FILE = "sweep.json"
# States of a sweep's run that begins later, or was left out because something else ended the sweep.
WAITING = "waiting"
# Whoever looks whether a sweep is at work holds its lock for a moment; a sweep that begins waits so long for them.
_LOOKS_END_S = 2.0


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
        return SweepFolder(self.folder, _read_record(self.folder / _FILE))

    @property
    def state(self) -> str:
        """`running`, `completed`, `failed`, `stopped`, `cancelled`; or `crashed` where the process has ended without recording how."""
        if self.record.state != RUNNING:
            return self.record.state
        try:
            with (self.folder / LOCK).open() as handle:
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
        """Write the record.

        Raises:
            OSError: the disk is full, or read-only; the record before stays.
        """
        with must_take(self.folder, "the sweep's record", "its runs stay, and the same command goes on from them"):
            write_json(self.folder / _FILE, asdict(self.record), durable=True)

    def end(self, state: str) -> None:
        """Record how the sweep ended, and with it the runs that were at work."""
        self.record.state, self.record.ended = state, now()
        for run in self.record.runs:
            run.state = state if run.state == RUNNING else run.state
        self.save()

    def end_crashed(self) -> None:
        """Record that the sweep's process is gone, unless the sweep has ended or was begun anew since this record was read."""
        with contextlib.suppress(BlockingIOError, FileNotFoundError), (self.folder / LOCK).open("a") as alive:
            # Where another has it the sweep was begun anew, or somebody looks: whoever comes next marks it.
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.record = self.read_again().record
            if self.record.state == RUNNING:
                self.end(CRASHED)


@contextlib.contextmanager
def held(home: Path, name: str) -> Iterator[None]:
    """Keep other sweeps of that name away until the `with` is left. What the home has of the sweep is then this one's to change.

    Raises:
        RecipeError: a sweep of that name is at work.
    """
    folder = home / "sweeps" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as alive:
        if not _lock(alive):
            raise RecipeError(
                f"name must be another than that of a sweep at work in {home}, got {name!r}; wait for it, or write name=…"
            )
        sign(alive)
        yield


def _lock(alive: IO[str]) -> bool:
    """Take a sweep's lock; False where a sweep has it."""
    deadline = time.monotonic() + _LOOKS_END_S
    while True:
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def require_same_file(earlier: SweepFolder | None, file: Path) -> None:
    """Refuse a sweep whose folder has the results of another file.

    Raises:
        RecipeError: naming both.
    """
    if earlier is None or not any(run.runs for run in earlier.record.runs):
        return
    before = Path(earlier.record.file)
    # What was moved, or lies in another checkout, is the same file.
    if before.is_file() and before.read_bytes() != file.read_bytes() and not before.samefile(file):
        raise RecipeError(
            f"name must be another than that of the sweep of another file, got {earlier.id}, whose results are of {before}; write "
            f"name=… to run {file} beside it"
        )


def left_out(record: SweepRecord, earlier: SweepFolder | None) -> list[str]:
    """The names of the runs that the sweep had before, and has no longer."""
    now = {run.name: run.settings for run in record.runs}
    known = earlier.record.runs if earlier is not None else []
    return [run.name for run in known if run.runs and now.get(run.name) != run.settings]


def begin(home: Path, record: SweepRecord, earlier: SweepFolder | None) -> SweepFolder:
    """The sweep's folder with a new record, for one that has it `held`. The runs that the sweep began earlier stay its runs."""
    known = {run.name: run for run in earlier.record.runs} if earlier is not None else {}
    for run in record.runs:
        # Names that are numbers stand for other settings where the file was changed.
        same = known.get(run.name)
        runs = same.runs if same is not None and same.settings == run.settings else ()
        run.runs = [name for name in runs if (home / "runs" / name).is_dir()]
    found = SweepFolder(home / "sweeps" / record.sweep, record)
    found.save()
    return found


def all_sweeps(home: Path) -> list[SweepFolder]:
    """Every sweep of the home. A record that can't be read is left out: `unreadable_sweeps` has it, and no run depends on it."""
    found = []
    for path in _records(home):
        with contextlib.suppress(ValueError, OSError):
            found.append(SweepFolder(path.parent, _read_record(path)))
    return found


def unreadable_sweeps(home: Path) -> dict[Path, str]:
    """The files of the records that can't be read, and why not."""
    found = {}
    for path in _records(home):
        try:
            _read_record(path)
        except FileNotFoundError:
            continue  # somebody has just deleted it
        except (ValueError, OSError) as error:
            found[path] = str(error)
    return found


def sweep_of(home: Path) -> dict[str, str]:
    """The sweep of each run of the home that belongs to one, by the run's id."""
    return {run: sweep.record.sweep for sweep in all_sweeps(home) for point in sweep.record.runs for run in point.runs}


def find_sweep(home: Path, name: str) -> SweepFolder | None:
    """The sweep of that name; None where there is none.

    Raises:
        RecipeError: its record can't be read.
    """
    path = next((path for path in _records(home) if path.parent.name == name), None)
    if path is None:
        return None
    try:
        return SweepFolder(path.parent, _read_record(path))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise RecipeError(
            f"{path} must be the record of the sweep {name}, got a file that can't be read ({error}); bring it back, or move it away: "
            "runs that are complete are taken without it too"
        ) from error


def _records(home: Path) -> list[Path]:
    return sorted((home / "sweeps").glob(f"*/{_FILE}"))


def _read_record(path: Path) -> SweepRecord:
    """Raises ValueError where the file isn't a sweep's record."""
    try:
        return SweepRecord.from_json(read_json(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must be a sweep's record, got one without what it needs ({error})") from error
