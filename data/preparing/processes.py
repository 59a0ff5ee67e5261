"""Processes that share out tasks. What they give keeps the tasks' order, and only a bounded number of tasks is in memory."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TypeVar, cast

# How many tasks are under way for each process: while one is slow, the others have work.
_TASKS_EACH = 3

H = TypeVar("H")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
# Makes of a setting what does tasks.
Make = Callable[[object], Callable[[object], object]]


def in_processes(
    make: Callable[[S], Callable[[T], R]], setting: S, tasks: Iterable[T], num_proc: int
) -> Generator[R, None, None]:
    """What `make(setting)`, which each process makes once, gives for each task.

    Raises:
        RuntimeError: a process has ended.
        Exception: what `make` or a task raises; the others are cancelled.
    """
    # Not forked: this process may have threads of torch and of the tokenizer.
    start = functools.partial(_start, cast(Make, make), setting)
    with ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn"), initializer=start) as pool:
        try:
            results = in_order(tasks, under_way(num_proc), lambda task: pool.submit(_do, task), Future.result, Future.cancel)
            yield from cast(Iterator[R], results)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "the processes of prepare must live until it ends, got one that was ended, often by the kernel's out-of-memory killer; "
                "lower prepare.num_proc, or close other programs"
            ) from error


def under_way(num_proc: int) -> int:
    """How many tasks are begun at once, so that so many processes always have one."""
    return _TASKS_EACH * num_proc + 1


def in_order(
    tasks: Iterable[T], most: int, begin: Callable[[T], H], result: Callable[[H], R], cancel: Callable[[H], object]
) -> Iterator[R]:
    """The result of each task. At most so many are begun at once; where one raises, or nobody wants more, the others are cancelled."""
    begun: deque[H] = deque()
    try:
        for task in tasks:
            begun.append(begin(task))
            if len(begun) == most:
                yield result(begun.popleft())
        while begun:
            yield result(begun.popleft())
    finally:
        for one in begun:
            cancel(one)


_work: Callable[[object], object]


def _start(make: Make, setting: object) -> None:
    """Prepares a process, which ends when its parent has ended in any way."""
    global _work
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    # One thread in each process is enough.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        _work = make(setting)
    except Exception as error:
        # Raised here it would look like a process that has ended. So each task raises it.
        _work = functools.partial(_refuse, error)


def _refuse(error: Exception, _: object) -> object:
    raise error


def _do(task: object) -> object:
    return _work(task)
