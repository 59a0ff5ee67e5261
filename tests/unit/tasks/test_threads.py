"""Threads outlive their work, for the sake of the processes that it started, and have the context of their caller."""

import contextvars
import threading
import time

from tasks.threads import Threads

VARIABLE = contextvars.ContextVar("variable", default="unset")


def test_work_runs_at_the_same_time_in_the_context_of_who_starts_it():
    both = threading.Barrier(2, timeout=10)
    with Threads() as threads:
        VARIABLE.set("mine")
        for name in ("a", "b"):
            threads.start(name, lambda: (both.wait(), VARIABLE.get())[1])
        assert threads.at_work == ["a", "b"]
        ended = [threads.ended(10), threads.ended(10)]
        assert {one.name: one.result for one in ended} == {"a": "mine", "b": "mine"} and threads.at_work == []
        assert threads.ended(0.01) is None


def test_what_work_raises_is_given_and_a_thread_goes_on_with_other_work():
    found = []
    with Threads() as threads:
        for work in (lambda: 1 // 0, lambda: found.append(threading.current_thread().name)) * 2:
            threads.start("work", work)
            ended = threads.ended(10)
            assert isinstance(ended.error, ZeroDivisionError) or ended.error is None
        assert found == ["node-1", "node-1"], "one thread does for one piece at a time"
        assert any(thread.name == "node-1" for thread in threading.enumerate())


def test_waiting_has_an_end():
    go_on = threading.Event()
    with Threads() as threads:
        threads.start("long", go_on.wait)
        started = time.monotonic()
        threads.wait(0.2)
        assert 0.1 < time.monotonic() - started < 5 and threads.at_work == ["long"]
        go_on.set()
        threads.wait(10)
        assert threads.ended(10).result is True and threads.at_work == []


def test_waiting_ends_with_the_work_though_an_interrupt_lost_a_piece():
    with Threads() as threads:
        threads.start("work", lambda: None)
        # As where Ctrl-C comes when the piece has just been taken.
        threads._ended.get(timeout=10)
        started = time.monotonic()
        threads.wait(30)
        assert time.monotonic() - started < 10 and threads.at_work == ["work"]
