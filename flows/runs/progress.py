"""How far a run's tasks at work are, written beside its record: for whoever looks at the run from another process (`bnf watch`).

`run.json` says what is done and what is at work. It is rewritten with every task; progress comes several times a second, and has a file of
its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.records import read_json
from tasks.store import write_json

PROGRESS_FILE = "progress.json"
# Seconds between two writes.
_INTERVAL_S = 0.5


@dataclass(frozen=True)
class TaskProgress:
    """How far a task is: so many of so many, and what else its stage says; `began` is an ISO time. Before its first report all is 0;
    while `total` is 0 nothing is counted yet, and the note says what the task is at."""

    began: str
    done: int = 0
    total: int = 0
    note: str = ""


@dataclass(frozen=True)
class Seen:
    """What a progress file holds: how far each task is, by label, and what the run has said so far. `about` has for each message the label
    of the task whose end it tells of, or nothing."""

    tasks: Mapping[str, TaskProgress] = field(default_factory=dict)
    messages: Sequence[str] = ()
    about: Sequence[str] = ()


class ProgressWriter:
    """Writes the progress of a run's tasks into the run's folder, at most twice a second. Several threads may report."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / PROGRESS_FILE
        self._tasks: dict[str, TaskProgress] = {}
        self._messages: list[str] = []
        self._about: list[str] = []
        self._written_s = 0.0
        self._lock = threading.Lock()

    def begin(self, label: str, began: str) -> None:
        """Take down that a task begins."""
        with self._lock:
            self._tasks[label] = TaskProgress(began)
            self._write()
            # Its first report says what there is to do: that is not left for later.
            self._written_s = 0.0

    def progress(self, label: str, done: int, total: int, note: str) -> None:
        """Take down how far a task is; nothing of one that has not begun, or is done."""
        with self._lock:
            if label not in self._tasks:
                return
            self._tasks[label] = TaskProgress(self._tasks[label].began, done, total, note)
            if time.monotonic() - self._written_s >= _INTERVAL_S:
                self._write()

    def message(self, text: str, about: str = "") -> None:
        """Take down what the run says; `about` is the label of the task whose end it tells of."""
        with self._lock:
            self._messages.append(text)
            self._about.append(about)
            self._write()

    def ended(self, label: str) -> None:
        """Forget a task that is done: the record has it."""
        with self._lock:
            # Written with the next report: nobody looks for the progress of a task that the record has.
            self._tasks.pop(label, None)

    def _write(self) -> None:
        self._written_s = time.monotonic()
        tasks = {label: vars(task) for label, task in self._tasks.items()}
        # Nothing depends on it: a disk that is full ends a task where it writes its output, with a message of its own.
        with contextlib.suppress(OSError):
            write_json(self._file, {"tasks": tasks, "messages": self._messages, "about": self._about})


def read_progress(folder: Path) -> Seen:
    """What a run's progress file holds; nothing where there is none, as of a run that has just begun, or of an older version."""
    try:
        found = read_json(folder / PROGRESS_FILE)
        tasks = {label: TaskProgress(**task) for label, task in found["tasks"].items()}
        messages = [str(text) for text in found["messages"]]
        about = [str(label) for label in found.get("about", [""] * len(messages))]
        if len(about) != len(messages):
            raise ValueError(f"{folder / PROGRESS_FILE} must say of each message what it is about")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Seen()
    return Seen(tasks, messages, about)
