"""Tasks shared out over workers that may end: each worker does one after another, and what an ended one had is done by another."""

import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

# A task that ends its worker each time would end all of them.
_TRIES = 3


class WorkerEnded(RuntimeError):
    """A worker has ended before it was told to."""


class Worker(Protocol):
    """What does tasks: a process of this machine, or one of a cluster."""

    def ready(self, until: Callable[[], bool]) -> bool:
        """Wait until the worker can do a task; False where `until()` holds before. It is asked before each task.

        Raises:
            WorkerEnded: it has ended for good.
        """
        ...


W = TypeVar("W", bound=Worker)
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Task(Generic[T]):
    what: T
    tries: int = 0


class _Tasks(Generic[T]):
    """The tasks that wait, and how many are at work. One at work may come back, so a worker without a task waits until none is."""

    def __init__(self, tasks: Iterable[T]) -> None:
        self._waiting = deque(_Task(task) for task in tasks)
        self._at_work, self._stopped = 0, False
        self._changed = threading.Condition()

    def over(self) -> bool:
        with self._changed:
            return self._stopped or not (self._waiting or self._at_work)

    def take(self) -> _Task[T] | None:
        """A task; None after a wait for one, as the worker may have ended meanwhile, and where there is none any more."""
        with self._changed:
            if not self._waiting and self._at_work:
                self._changed.wait_for(lambda: self._stopped or self._waiting or not self._at_work)
                return None
            if self._stopped or not self._waiting:
                return None
            self._at_work += 1
            return self._waiting.popleft()

    def done(self) -> None:
        with self._changed:
            self._at_work -= 1
            self._changed.notify_all()

    def put_back(self, task: _Task[T]) -> None:
        with self._changed:
            self._at_work -= 1
            self._waiting.append(task)
            self._changed.notify_all()

    def is_empty(self) -> bool:
        with self._changed:
            return not self._waiting

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def share_out(workers: list[W], tasks: Iterable[T], work: Callable[[W, T], Iterable[R]]) -> Generator[R, None, None]:
    """What `work` yields for all tasks, in the order in which it is there. Each worker has a thread of its own here.

    A worker that ends gives its task back: `work` is called for it again, by this worker if it comes back, or by another. What `work` has
    yielded of it by then stays yielded. A worker that ends for good is taken from `workers`.

    Raises:
        WorkerEnded: all have ended.
        RuntimeError: one task has ended its worker three times.
        Exception: what `work` raises; the others end after the task that they are at.
    """
    left: _Tasks[T] = _Tasks(tasks)
    told: queue.Queue[tuple[W, R | None, Exception | None, bool]] = queue.Queue()

    def serve(worker: W) -> None:
        failed: Exception | None = None
        try:
            while worker.ready(left.over) and not left.over():
                if (task := left.take()) is None:
                    continue
                try:
                    for one in work(worker, task.what):
                        told.put((worker, one, None, False))
                except WorkerEnded as error:
                    task.tries += 1
                    if task.tries == _TRIES:
                        left.done()
                        raise RuntimeError(
                            f"what a worker is given must not end it, got {_TRIES} ends with the same task, the last: {error}; give a "
                            "worker more memory, or leave out of the data what it can't do"
                        ) from error
                    left.put_back(task)
                    _say(f"{error}; {'the others take over what it had' if len(workers) > 1 else 'what it had is done again'}")
                except BaseException:
                    left.done()
                    raise
                else:
                    left.done()
        except Exception as error:
            failed = error
        except BaseException as error:
            # A panic of a library in Rust is no Exception; whoever reads waits for this thread's end.
            failed = RuntimeError(f"{type(error).__name__}: {error}")
        told.put((worker, None, failed, True))

    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    running, ended, failure = len(threads), WorkerEnded("every worker has ended"), None
    try:
        while running:
            worker, one, failed, is_end = told.get()
            if not is_end:
                yield one  # type: ignore[misc]
                continue
            running -= 1
            if isinstance(failed, WorkerEnded):
                workers.remove(worker)
                ended = failed
                if workers:
                    _say(
                        f"{failed} and stays away; {len(workers)} go on"
                        if len(workers) > 1
                        else f"{failed} and stays away; one goes on"
                    )
            elif failed is not None:
                failure = failure or failed
                left.stop()
    finally:
        left.stop()
        for thread in threads:
            thread.join()
    if failure is not None:
        raise failure
    if not left.is_empty():
        raise ended


def end_all(ends: Iterable[Callable[[], object]]) -> None:
    """Calls each, in order, also after one that fails or is interrupted: else Ctrl-C at one worker's end would leave the others at work.

    Raises:
        BaseException: the first interrupt, or else the first error of what they raised.
    """
    raised: list[BaseException] = []
    for end in ends:
        try:
            end()
        except BaseException as error:
            raised.append(error)
    if raised:
        raise next((error for error in raised if not isinstance(error, Exception)), raised[0])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
