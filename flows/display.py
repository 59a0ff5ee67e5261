"""What the terminal shows: a line per task with live progress, tables, and sizes and times as people read them.

Colours and lines that change are left out where they would be noise: in a file or a pipe, in a terminal that has none, with NO_COLOR.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evaluation.formats import escaped, visible
from flows.wording import in_words
from tasks.nodes import Forecast

# Without a terminal, seconds between two lines of progress.
QUIET_INTERVAL_S = 15.0
# Cached tasks fold into one line, which is printed once none has come for so long, or something else is.
_FOLD_S = 1.0
# Between tasks at work in one line, and the columns that the name of each and how far it is need.
_BETWEEN = "  │  "
_LEAST_WIDTH = 25
# Characters of a value that is not folded.
_SHORT = 12


class HasLabel(Protocol):
    """What a line is about: a task's node, or only its name."""

    @property
    def label(self) -> str: ...


@dataclass
class _AtWork:
    """A task at work: when it began, how far it is in few words, and all that its progress says."""

    began_s: float | None  # None where nobody knows
    said_s: float  # of the last line about it, without a terminal
    place: str = ""
    text: str = "…"


class Display:
    """Lines about a run on standard error; standard output is left to results. Several threads may have something to show."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        changes = self.console.is_terminal and not self.console.is_dumb_terminal
        self.status = self.console.status("", spinner="dots") if changes else None
        self.times: list[tuple[str, bool, float]] = []
        self.at_work: dict[str, _AtWork] = {}  # by label, in the order in which they began
        self._cached: list[str] = []  # not printed yet
        self._cached_s = 0.0
        self._lock = threading.RLock()

    def message(self, text: str) -> None:
        with self._lock:
            self._fold()
            # An error may quote what a model or a file says.
            self.console.print(visible(text), markup=False, soft_wrap=True)

    def wait(self, text: str) -> None:
        """Show what the command is at, in a terminal alone, until there is something else to show."""
        with self._lock:
            if self.status is not None:
                self.status.update(Text(text))
                self.status.start()

    def start(self, node: HasLabel, ago_s: float | None = 0.0) -> None:
        """Show that a task begins, or has begun some seconds ago; None where nobody knows when."""
        with self._lock:
            now_s = time.monotonic()
            self.at_work[node.label] = _AtWork(None if ago_s is None else now_s - ago_s, now_s)
            self._show()

    def progress(self, node: HasLabel, done: int, total: int, note: str) -> None:
        with self._lock:
            task = self.at_work.get(node.label)
            if task is None:
                return
            if total:
                counted = note.split(",")[0]
                task.place = f"{done} of {total}" + (f" {counted}" if counted.isalpha() else "")
                task.text = f" {done}/{total}  {note}"
            else:
                # Nothing is counted yet.
                task.place, task.text = note, f" {note}"
            now_s = time.monotonic()
            if now_s - self._cached_s > _FOLD_S:
                self._fold()
            if self.status is not None:
                self._show()
            elif now_s - task.said_s > QUIET_INTERVAL_S:
                task.said_s = now_s
                self.console.print(f"  {node.label} {task.text}", markup=False, soft_wrap=True)

    def done(self, node: HasLabel, cached: bool, seconds: float) -> None:
        with self._lock:
            self.at_work.pop(node.label, None)
            self.times.append((node.label, cached, seconds))
            if cached:
                self._cached.append(node.label)
                self._cached_s = time.monotonic()
            else:
                self._fold()
                self.console.print(f"  {node.label:<34} [green]done[/]   {seconds:7.1f} s")
            self._show()

    def failed(self, node: HasLabel) -> None:
        """Show that a task has failed while others go on."""
        with self._lock:
            if node.label in self.at_work:
                self._break_off(node.label, "failed")
                self._show()

    def stop(self) -> None:
        """End the lines that change; what is left to say comes before whatever others print."""
        with self._lock:
            self._clear()
            self._fold()

    def broken_off(self, how: str) -> str:
        """Show the tasks that were at work when the run ended before its end, and say in words where that was."""
        self.stop()
        with self._lock:
            number = len(self.times)
            finished = "1 task was complete" if number == 1 else f"{number} tasks were complete"
            if not self.at_work:
                return f"between tasks; {finished}" if self.times else "before the first task"
            places = [self._break_off(label, how) for label in list(self.at_work)]
            return f"in {' and '.join(places)}; {finished} before {'it' if len(places) == 1 else 'them'}"

    def _break_off(self, label: str, how: str) -> str:
        """Show how a task ended; where that was, in words."""
        self._fold()
        task = self.at_work.pop(label)
        after = "" if task.began_s is None else f" after {time.monotonic() - task.began_s:.1f} s"
        self.console.print(f"  {label:<34} [red]{how}[/]{after}" + (f"  {task.place}" if task.place else ""))
        return label + (f" ({task.place})" if task.place else "")

    def _fold(self) -> None:
        """Print the cached tasks since the last line as one, or as one of each run: `7 cached: resolve-base, prepare, … and 5 more`."""
        for line in self._folded():
            text = Text(line)
            text.highlight_regex(r"\d+ cached(?=: )", "bright_blue")
            self.console.print(text, soft_wrap=True)
        self._cached = []

    def _folded(self) -> list[str]:
        by_run: dict[str, list[str]] = {}
        for label in self._cached:
            # Where several runs are at work, a label is RUN: TASK.
            run, _, task = label.rpartition(": ")
            by_run.setdefault(run, []).append(task)
        # A file has room for all of them.
        width = self.console.width if self.console.is_terminal else sys.maxsize
        return [_folded(tasks, width, f"  {run}: " if run else "  ") for run, tasks in by_run.items()]

    def _show(self) -> None:
        """The tasks at work, and how far each is: a line each while half of the terminal holds them; the rest shares the last one."""
        if self.status is None:
            return
        if not self.at_work:
            self._clear()
            return
        # The spinner's columns are not the tasks'.
        width = self.console.width - 2
        rows = max(1, self.console.height // 2) if self.console.is_terminal else 1
        shown = list(self.at_work.items())
        own = shown if len(shown) <= rows else shown[: rows - 1]
        names = max((len(label) for label, _ in own), default=0)
        lines = [_line(f"{label:<{names}}", task.text, width) for label, task in own]
        if rest := shown[len(own) :]:
            lines.append(_shared_line([f"{label} {task.text}" for label, task in rest], width))
        lines += [line[2:] for line in self._folded()]
        # The first line stands behind the spinner.
        self.status.update(Text("\n  ".join(lines)))
        self.status.start()

    def _clear(self) -> None:
        """Take the lines that change away."""
        if self.status is not None:
            self.status.stop()
            # Started again it would first go up by the lines that it had, and erase what stands there: so the next one is new.
            self.status = self.console.status("", spinner="dots")

    def total(self) -> None:
        made = sum(seconds for _, cached, seconds in self.times if not cached)
        hits = sum(cached for _, cached, _ in self.times)
        self.console.print(f"  {len(self.times)} tasks, {hits} from the cache, {made:.0f} s of work")


def _line(name: str, text: str, width: int) -> str:
    """A task's own line. Where it is too long, what is counted goes first: the name of the task says as much."""
    line = f"{name} {text}"
    if len(line) > width and "  " in text and ", " in text:
        place, note = text.split("  ", 1)
        line = f"{name} {place}  {note.split(', ', 1)[1]}"
    return line if len(line) <= width else line[: width - 1] + "…"


def _shared_line(texts: Sequence[str], width: int) -> str:
    """Several tasks in a line: as many as fit have a part of it, and the others are a number."""
    more = max(0, len(texts) - max(1, width // _LEAST_WIDTH))
    rest = [f"+{more}"] if more else []
    number = len(texts) - more
    room = (width - len(_BETWEEN) * (number + len(rest) - 1) - sum(map(len, rest))) // number
    return _BETWEEN.join([*(text[:room] for text in texts[:number]), *rest])


def _folded(names: Sequence[str], room: int, before: str) -> str:
    """The names of cached tasks in a line, as many as there is room for."""
    shown = len(names)
    while True:
        more = f", … and {len(names) - shown} more" if shown < len(names) else ""
        line = f"{before}{len(names)} cached: {', '.join(names[:shown])}{more}"
        if len(line) <= room or shown <= 1:
            return line
        shown -= 1


def print_json(value: object) -> None:
    """Print JSON, with an escape for what can't be seen: a terminal obeys some of it, and half a surrogate pair is no UTF-8."""
    print(escaped(json.dumps(value, ensure_ascii=False, indent=2)))


def print_table(title: str, rows: Sequence[Mapping[str, object]], *, words: bool = False) -> None:
    """Print rows of equal keys as a table. The first column is a name, which is copied: it is whole. The others are numbers unless they are
    `words`. Where a terminal is too narrow for numbers and words that are whole, the columns come in parts, each behind the names."""
    if not rows:
        return
    cells = [{visible(key): "" if value is None else visible(in_words(value)) for key, value in row.items()} for row in rows]
    # Piped output is not folded at eighty columns: whoever reads it wants whole names. In a terminal a cell of words is folded where it has
    # a space, so that none is cut.
    least = _least_widths(cells, words=words)
    room = Console().width if sys.stdout.isatty() else max(200, _width(least.values()))
    # Where several rows have one name, nobody could tell whose the rest of a row is.
    are_names = len({row[next(iter(least))] for row in cells}) == len(cells)
    room = room if are_names else max(room, _width(least.values()))
    for number, columns in enumerate(_parts(least, room)):
        if number:
            print()
        _print_part(title if number == 0 else "", cells, columns, least, room, words=words)


def _print_part(
    title: str,
    cells: Sequence[Mapping[str, str]],
    columns: Sequence[str],
    least: Mapping[str, int],
    room: int,
    *,
    words: bool,
) -> None:
    """Print some columns of a table."""
    widths, last = {column: least[column] for column in columns}, columns[-1]
    spare = room - _width(widths.values())
    if spare < 0 and len(columns) > 1:
        # One column alone behind the names is too much: it is folded.
        widths[last] = max(_SHORT, widths[last] + spare)
    for column in columns:
        # Left to itself rich takes room from the widest column first, whatever is in it.
        whole = max(map(cell_len, (column, *(row[column] for row in cells))))
        more = max(0, min(spare, whole - widths[column]))
        widths[column] += more
        spare -= more
    table = Table(
        title=Text(visible(title)) if title else None, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for column in columns:
        is_name = column == next(iter(least))
        justify: Literal["left", "right"] = "left" if words or is_name else "right"
        table.add_column(Text(column), justify=justify, no_wrap=is_name, overflow="fold", width=widths[column])
    for row in cells:
        table.add_row(*(Text(row[column]) for column in columns))
    # A terminal breaks a longer line by itself, and a name in it is copied whole.
    Console(highlight=False, width=max(room, _width(widths.values()))).print(table)


def _parts(least: Mapping[str, int], room: int) -> list[list[str]]:
    """The columns of a table in as few parts as fit into the room, each behind the first column."""
    first, *others = least
    parts = [[first]]
    for column in others:
        if len(parts[-1]) > 1 and _width([*(least[one] for one in parts[-1]), least[column]]) > room:
            parts.append([first])
        parts[-1].append(column)
    return parts


def _width(columns: Collection[int]) -> int:
    """That of a table with columns of these widths."""
    return sum(columns) + 2 * (len(columns) - 1)


def fits(rows: Sequence[Mapping[str, str]]) -> bool:
    """Whether the terminal is wide enough for a table of these rows without a word that is cut; a pipe has room for any."""
    return not sys.stdout.isatty() or _width(_least_widths(rows).values()) <= Console().width


def _least_widths(rows: Sequence[Mapping[str, str]], *, words: bool = True) -> dict[str, int]:
    """What each column needs for the names and short values whole, and the words of longer ones; of numbers, for all that is in a cell."""
    found = {}
    for index, column in enumerate(rows[0]):
        cells = [row[column] for row in rows]
        is_whole = index == 0 or not words
        parts = [part for cell in cells for part in ([cell] if is_whole or len(cell) <= _SHORT else cell.split())]
        found[column] = max(map(cell_len, [*parts, *([column] if index == 0 or len(column) <= _SHORT else column.split())]))
    return found


def print_notes(notes: Iterable[str]) -> None:
    """Print sentences below a table; in a terminal they are folded between words."""
    console = Console(highlight=False)
    for note in notes:
        if sys.stdout.isatty():
            console.print(Padding(Text(visible(note)), (0, 0, 0, 2)))
        else:
            print(f"  {visible(note)}")


def timeline(spans: Mapping[str, tuple[str, str]]) -> tuple[str, dict[str, str]]:
    """When each of a run's tasks was at work: a heading with the first and the last time, and a bar for each name.

    Args:
        spans: the ISO times at which each task began and ended; at least one task.
    """
    times = {name: (datetime.fromisoformat(began), datetime.fromisoformat(ended)) for name, (began, ended) in spans.items()}
    first, last = min(began for began, _ in times.values()), max(ended for _, ended in times.values())
    whole_s = max((last - first).total_seconds(), 1e-3)
    # Beside the other columns of `bnf show`.
    room = max(10, min(40, Console().width - 70)) if sys.stdout.isatty() else 40
    bars = {}
    for name, (began, ended) in times.items():
        start = min(room - 1, round(room * (began - first).total_seconds() / whole_s))
        stop = max(start + 1, round(room * (ended - first).total_seconds() / whole_s))
        bars[name] = "·" * start + "█" * (stop - start) + "·" * (room - stop)
    return f"{first:%H:%M:%S} to {last:%H:%M:%S}", bars


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
    text = in_words(value)
    # A digest says that something changed, not what; its beginning is enough.
    return text[:8] if len(text) in (32, 64) and set(text) <= set("0123456789abcdef") else text[:40]
