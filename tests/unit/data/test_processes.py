"""Tasks that are shared out: their order, how many are under way, and what becomes of them where one raises."""

import pytest

from data.preparing.processes import in_order, in_processes, under_way


class Tasks:
    def __init__(self, number):
        self.number, self.begun, self.cancelled = number, [], []

    def run(self, num_proc):
        return in_order(range(self.number), under_way(num_proc), self._begin, self._result, self.cancelled.append)

    def _begin(self, task):
        self.begun.append(task)
        return task

    def _result(self, task):
        if task == 7:
            raise ValueError("seven")
        return 10 * task


def test_results_keep_the_tasks_order_and_few_tasks_are_under_way():
    tasks = Tasks(7)
    found = []
    for result in tasks.run(1):
        found.append(result)
        assert len(tasks.begun) - len(found) <= 3
    assert found == [0, 10, 20, 30, 40, 50, 60] and tasks.cancelled == []


def test_where_a_task_raises_the_others_are_cancelled():
    tasks = Tasks(100)
    with pytest.raises(ValueError, match="seven"):
        list(tasks.run(2))
    assert tasks.cancelled == [8, 9, 10, 11, 12, 13] == tasks.begun[8:]


def test_where_nobody_wants_more_the_tasks_under_way_are_cancelled():
    tasks = Tasks(100)
    results = tasks.run(1)
    assert next(results) == 0
    results.close()
    assert tasks.cancelled == [1, 2, 3] == tasks.begun[1:]


def refuse(setting):
    raise ValueError(f"the model must have a chat template, got {setting} without one")


def test_what_a_process_refuses_at_its_start_is_what_one_process_would_say():
    with pytest.raises(ValueError, match="must have a chat template, got mine without one"):
        list(in_processes(refuse, "mine", range(5), 2))
