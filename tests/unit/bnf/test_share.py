"""Tasks shared out over workers that end, stay away, or come back."""

import threading
import time

import pytest

from bnf.parallel.share import WorkerEnded, end_all, share_out


class Worker:
    """One that comes back so often after it has ended."""

    def __init__(self, name, lives=1):
        self.name, self.lives, self.done = name, lives, []

    def ready(self, until):
        if self.lives == 0:
            raise WorkerEnded(f"{self.name} has ended")
        return not until()

    def end(self):
        self.lives -= 1
        raise WorkerEnded(f"{self.name} has ended")


def double(worker, task):
    worker.done.append(task)
    time.sleep(0.001)
    yield 2 * task


def test_every_task_is_done_once_by_some_worker():
    workers = [Worker("a"), Worker("b"), Worker("c")]
    assert sorted(share_out(workers, range(50), double)) == list(range(0, 100, 2))
    assert sorted(task for worker in workers for task in worker.done) == list(range(50))
    assert list(share_out(workers, [], double)) == []


def test_the_others_do_what_an_ended_worker_had(capfd):
    workers = [Worker("a"), Worker("b")]
    met = threading.Barrier(2)

    def work(worker, task):
        if not worker.done:
            worker.done.append(task)
            met.wait(timeout=10)
        yield (task, "begun")
        if worker.name == "a":
            worker.end()
        yield (task, "ended")

    found = list(share_out(workers, range(6), work))
    assert sorted(task for task, how in found if how == "ended") == list(range(6))
    # What was yielded of the task that was done twice stays yielded: a caller that minds leaves out what it has.
    assert len(found) == 13 and [worker.name for worker in workers] == ["b"]
    said = capfd.readouterr().err
    assert "a has ended; the others take over what it had" in said and "a has ended and stays away; one goes on" in said


def test_a_worker_that_comes_back_goes_on():
    worker = Worker("a", lives=2)
    workers, ends = [worker], [True]

    def work(worker, task):
        if ends and task == 3:
            ends.pop()
            worker.end()
        yield task

    assert sorted(share_out(workers, range(6), work)) == list(range(6))
    assert workers == [worker]


def test_a_task_that_ends_its_worker_each_time_does_not_end_them_all():
    workers = [Worker(name, lives=9) for name in "abcd"]

    def work(worker, task):
        if task == 5:
            worker.end()
        yield task

    found = []
    with pytest.raises(
        RuntimeError, match=r"must not end it, got 3 ends with the same task, the last: . has ended; give a worker"
    ):
        for one in share_out(workers, range(8), work):
            found.append(one)
    assert sum(9 - worker.lives for worker in workers) == 3 and len(workers) == 4 and len(found) == len(set(found))


def test_workers_that_end_while_they_wait_do_not_count_against_the_task_that_comes_back():
    """As where a node with many workers dies, and one of them alone was still at work."""
    first, *idle = workers = [Worker(name) for name in "abcd"]

    class Late(Worker):
        def ready(self, until):
            while not until() and any(worker in workers for worker in idle):
                time.sleep(0.001)
            return super().ready(until)

    workers.append(last := Late("e"))

    def work(worker, task):
        if worker is first:
            time.sleep(0.2)  # the others wait for a task meanwhile
            for one in idle:
                one.lives = 0
        if worker is not last:
            worker.end()
        yield task

    assert list(share_out(workers, [1], work)) == [1] and workers == [last]


def test_where_all_have_ended_the_call_ends_and_so_does_the_next():
    workers = [Worker("a"), Worker("b")]
    with pytest.raises(WorkerEnded, match="has ended"):
        list(share_out(workers, range(4), lambda worker, task: worker.end()))
    assert workers == []
    with pytest.raises(WorkerEnded, match="every worker has ended"):
        list(share_out(workers, [1], double))


def test_workers_that_end_with_nothing_left_to_do_are_no_failure():
    workers = [Worker("a")]

    def last(worker, task):
        worker.lives = 0
        yield task

    assert list(share_out(workers, [1], last)) == [1] and workers == []


def test_what_the_work_raises_ends_the_call_after_the_tasks_at_work():
    workers, done = [Worker("a"), Worker("b")], []
    met = threading.Barrier(2)

    def work(worker, task):
        if task < 2:
            met.wait(timeout=10)
        if task == 1:
            raise ValueError("task 1 is wrong")
        time.sleep(0.05)
        done.append(task)
        yield task

    with pytest.raises(ValueError, match="task 1 is wrong"):
        list(share_out(workers, range(50), work))
    assert done == [0]


def test_a_caller_that_stops_early_waits_for_the_tasks_at_work_alone():
    workers, done = [Worker("a"), Worker("b")], []

    def work(worker, task):
        yield task
        time.sleep(0.05)
        done.append(task)

    shared = share_out(workers, range(50), work)
    next(shared)
    shared.close()
    assert 1 <= len(done) <= 2
    before = list(done)
    time.sleep(0.2)
    assert done == before
    assert sorted(share_out(workers, range(5), double)) == [0, 2, 4, 6, 8]


def test_a_worker_that_is_not_there_yet_keeps_nobody_waiting():
    class Late(Worker):
        def ready(self, until):
            while not until():
                time.sleep(0.001)
            return False

    workers = [Late("late"), Worker("a")]
    assert sorted(share_out(workers, range(5), double)) == [0, 2, 4, 6, 8]
    assert len(workers) == 2 and workers[0].done == []


def test_an_interrupt_at_one_workers_end_leaves_no_other_at_work():
    ended = []

    def end(name: str, raises: BaseException | None = None) -> None:
        ended.append(name)
        if raises is not None:
            raise raises

    with pytest.raises(KeyboardInterrupt):
        end_all([lambda: end("first"), lambda: end("second", KeyboardInterrupt()), lambda: end("third", RuntimeError("gone"))])
    assert ended == ["first", "second", "third"]
