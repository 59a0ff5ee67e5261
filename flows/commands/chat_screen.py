"""What `bnf chat` reads and shows: models side by side where the terminal is wide enough, else one below the other."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evaluation.formats import visible

# A column for each of two models.
_WIDE = 100
_PROMPT = "> "
_PER_SECOND = 12


@dataclass
class Answer:
    """A model's answer so far; `note` is what has to be said of it besides."""

    text: str = ""
    note: str = ""
    done: bool = False


class Screen:
    """Standard input and output of a chat; what isn't part of it is said on standard error."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=False)
        self.is_person = sys.stdin.isatty()
        if self.is_person:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  the arrow keys

    def lines(self) -> Iterator[str]:
        """What the person types, or the lines of a pipe, until its end or Ctrl-C."""
        while True:
            try:
                line = input(_PROMPT) if self.is_person else sys.stdin.readline()
            except (EOFError, KeyboardInterrupt):
                print()
                return
            if not self.is_person and not line:
                return
            if line.strip():
                if not self.is_person:
                    print(f"{_PROMPT}{visible(line.strip())}", flush=True)
                yield line.rstrip("\n")

    def say(self, text: str) -> None:
        print(text, flush=True)

    @contextlib.contextmanager
    def answers(self, names: Sequence[str]) -> Iterator[Shown]:
        """Show the answers of these models while they come; what the caller tells the result is on the screen at once."""
        shown = {name: Answer() for name in names}
        if len(names) > 1 and self.console.is_terminal and self.console.width >= _WIDE:
            with Live(console=self.console, refresh_per_second=_PER_SECOND, transient=True) as live:
                yield Columns(shown, live)
            # Whole: while it came, a long one was cut at the terminal's height.
            self.console.print(_columns(shown))
        else:
            below = Below(shown)
            yield below
            below.finish()


class Shown:
    """The answers on the screen."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.by_name = answers

    def add(self, name: str, text: str) -> None:
        self.by_name[name].text += text
        self.changed()

    def end(self, name: str, note: str) -> None:
        self.by_name[name].note, self.by_name[name].done = note, True
        self.changed()

    def changed(self) -> None:
        raise NotImplementedError


class Columns(Shown):
    """A column for each model."""

    def __init__(self, answers: dict[str, Answer], live: Live) -> None:
        super().__init__(answers)
        self._live = live
        self.changed()

    def changed(self) -> None:
        self._live.update(_columns(self.by_name))


class Below(Shown):
    """One answer below the other. The first streams; what the next have said meanwhile follows when their turn comes."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__(answers)
        self._waiting = list(answers)
        # Of the first that waits: whether its name stands there, and how many characters of its answer do.
        self._begun, self._written = False, 0

    def changed(self) -> None:
        while self._waiting:
            name = self._waiting[0]
            answer = self.by_name[name]
            if not self._begun and (answer.text or answer.done):
                self._write(f"{name}: ")
                self._begun = True
            self._write(visible(answer.text[self._written :]))
            self._written = len(answer.text)
            if not answer.done:
                return
            self._write((f" [{visible(answer.note)}]" if answer.note else "") + "\n")
            self._waiting.pop(0)
            self._begun, self._written = False, 0

    def finish(self) -> None:
        """End the line of an answer that was broken off."""
        if self._begun:
            self._write("\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _columns(answers: dict[str, Answer]) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in answers:
        table.add_column(name, ratio=1, overflow="fold")
    cells = []
    for answer in answers.values():
        cell = Text(visible(answer.text))
        cell.append(f" [{visible(answer.note)}]" if answer.note else "" if answer.done else " ▌", style="dim")
        cells.append(cell)
    table.add_row(*cells)
    return table
