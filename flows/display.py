"""What the terminal shows: a line per task with live progress, tables, and sizes and times as people read them."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict

from rich.console import Console
from rich.table import Table

from tasks.nodes import Forecast, Node

# Without a terminal, seconds between two lines of progress.
QUIET_INTERVAL_S = 15.0


class Display:
    """Lines about a run on standard error; standard output is left to results."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.status = self.console.status("", spinner="dots") if self.console.is_terminal else None
        self.last_s = 0.0
        self.times: list[tuple[str, bool, float]] = []
        self.at_work: tuple[str, float] | None = None  # the task at work and when it began
        self.place = ""  # how far it is

    def message(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def start(self, node: Node) -> None:
        self.last_s = time.monotonic()
        self.at_work, self.place = (node.label, self.last_s), ""
        if self.status is not None:
            self.status.update(f"{node.label} …")
            self.status.start()

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        counted = note.split(",")[0]
        self.place = f"{done} of {total}" + (f" {counted}" if counted.isalpha() else "")
        text = f"{node.label}  {done}/{total}  {note}"
        if self.status is not None:
            self.status.update(text)
        elif time.monotonic() - self.last_s > QUIET_INTERVAL_S:
            self.last_s = time.monotonic()
            self.console.print(f"  {text}", markup=False)

    def done(self, node: Node, cached: bool, seconds: float) -> None:
        self.stop()
        self.at_work = None
        self.times.append((node.label, cached, seconds))
        state = "[bright_blue]cached[/]" if cached else f"[green]done[/]   {seconds:7.1f} s"
        self.console.print(f"  {node.label:<34} {state}")

    def stop(self) -> None:
        if self.status is not None:
            self.status.stop()

    def broken_off(self, how: str) -> str:
        """Show the task that was at work when the run ended before its end, and say in words where that was."""
        self.stop()
        number = len(self.times)
        finished = "1 task was complete" if number == 1 else f"{number} tasks were complete"
        if self.at_work is None:
            return f"between tasks; {finished}" if self.times else "before the first task"
        label, began_s = self.at_work
        seconds = time.monotonic() - began_s
        self.console.print(f"  {label:<34} [red]{how}[/] after {seconds:.1f} s" + (f"  {self.place}" if self.place else ""))
        return f"in {label}" + (f" ({self.place})" if self.place else "") + f"; {finished} before it"

    def total(self) -> None:
        made = sum(seconds for _, cached, seconds in self.times if not cached)
        hits = sum(cached for _, cached, _ in self.times)
        self.console.print(f"  {len(self.times)} tasks, {hits} from the cache, {made:.0f} s of work")


def print_table(title: str, rows: Sequence[Mapping[str, object]], *, words: bool = False) -> None:
    """Print rows of equal keys as a table. The first column is a name, the others are numbers unless they are `words`."""
    if not rows:
        return
    # Piped output is not folded at eighty columns: whoever reads it wants whole names.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(rows[0]):
        table.add_column(column, justify="left" if words or index == 0 else "right", no_wrap=not words)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


def plan_rows(forecasts: Sequence[Forecast]) -> list[dict[str, str]]:
    """A table of what each task would do, and why."""
    states = {True: "cached", None: "cached if unchanged", False: "to run"}
    rows = []
    for entry in forecasts:
        why = ("kept, though other code made it: " if entry.kept else "") + "; ".join(
            f"{change['key']}: {_short(change['old'])} → {_short(change['new'])}" for change in entry.changed[:3]
        )
        more = f" (+{len(entry.changed) - 3} more)" if len(entry.changed) > 3 else ""
        rows.append({"task": entry.node.label, "": states[entry.cached], "what changed": entry.problem or why + more})
    return rows


class ListedRun(TypedDict):
    """A run as `bnf runs --json` lists it. `bytes_of_its_own` are the artifacts that no other run names: what `bnf gc` frees once
    the run's folder is deleted.
    """

    run: str
    state: str
    started: str
    ended: str | None
    recipe: str
    tasks: int
    bytes: int
    bytes_of_its_own: int


def run_row(row: ListedRun) -> dict[str, str]:
    """A line of `bnf runs`."""
    started = datetime.fromisoformat(row["started"])
    return {
        "run": row["run"],
        "state": row["state"],
        "age": age((datetime.now().astimezone() - started).total_seconds()),
        "tasks": str(row["tasks"]),
        "size": size(row["bytes"]),
        "own": size(row["bytes_of_its_own"]),
    }


def age(seconds: float) -> str:
    """A span of time in its largest unit: `3 h`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def size(num_bytes: float) -> str:
    """Bytes in a readable unit: `269 MB`."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= length:
            return f"{num_bytes / length:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def _short(value: object) -> str:
    text = "–" if value is None else str(value)
    # A digest says that something changed, not what; its beginning is enough.
    return text[:8] if len(text) in (32, 64) and set(text) <= set("0123456789abcdef") else text[:40]
