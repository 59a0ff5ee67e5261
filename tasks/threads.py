"""Threads on which the nodes of a run are at work at the same time."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Ended(Generic[T]):
    """A piece of work that has ended: its name, and what it gave or raised."""

    name: str
    result: T | None = None
    error: BaseException | None = None


class Threads(Generic[T]):
    """Runs pieces of work, each on a thread and in a copy of the caller's context, and says which of them have ended.

    The threads live until the `with` is left, though their work ends: Linux kills a process when the thread that started it ends
    (PR_SET_PDEATHSIG), and nodes of a session share the process that the first of them started. None is waited for when Python ends: one
    may be asleep before another try.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[str, Callable[[], T], contextvars.Context] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Ended[T]] = queue.SimpleQueue()
        self._number = 0
        self.at_work: list[str] = []
        # Those whose work goes on. Unlike `at_work` it is right though an interrupt came in the midst of `ended`.
        self._going_on: set[str] = set()
        self._changed = threading.Condition()

    def __enter__(self) -> Threads[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for _ in range(self._number):
            self._work.put(None)

    def start(self, name: str, work: Callable[[], T]) -> None:
        """Begin a piece of work."""
        self.at_work.append(name)
        if len(self.at_work) > self._number:
            self._number += 1
            threading.Thread(target=self._go_on, name=f"node-{self._number}", daemon=True).start()
        with self._changed:
            self._going_on.add(name)
        self._work.put((name, work, contextvars.copy_context()))

    def ended(self, timeout_s: float) -> Ended[T] | None:
        """The next piece of work that has ended; None where none ends within the time."""
        try:
            ended = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self.at_work.remove(ended.name)
        return ended

    def wait(self, timeout_s: float) -> None:
        """Wait until everything has ended, or no longer than this. What it gave or raised stays for `ended`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._going_on, timeout_s)

    def _go_on(self) -> None:
        while (piece := self._work.get()) is not None:
            name, work, context = piece
            try:
                ended = Ended(name, context.run(work))
            except BaseException as error:
                ended = Ended(name, error=error)
            with self._changed:
                self._going_on.remove(name)
                self._changed.notify_all()
            self._ended.put(ended)
