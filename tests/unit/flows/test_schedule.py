"""Which tasks begin: on hand-made plans, with the whole order in which they would run."""

import random
from collections import Counter

import pytest

from flows.dag.schedule import Waiting, startable


def task(name, *inputs, **needs):
    return Waiting(name, inputs, needs)


def play(tasks, totals, seconds=None):
    """What begins at each moment, where every task takes as long as `seconds` says, or 1."""
    finished, running, now, begun = set(), {}, 0, []
    while len(finished) < len(tasks):
        begin = startable(tasks, finished, running, totals)
        assert begin or running, f"nothing can begin after {sorted(finished)}"
        running |= {name: now + (seconds or {}).get(name, 1) for name in begin}
        if begin:
            begun.append((now, begin))
        now = min(running.values())
        finished |= {name for name, end in running.items() if end == now}
        running = {name: end for name, end in running.items() if end > now}
    return begun


def test_tasks_begin_with_their_inputs_in_the_order_of_the_plan():
    plan = [task("a", cpu=1), task("b", "a", cpu=1), task("c", cpu=1), task("d", "b", "c", cpu=1)]
    assert play(plan, {"cpu": 4}) == [(0, ["a", "c"]), (1, ["b"]), (2, ["d"])]


def test_one_turn_for_all_is_the_order_of_the_plan():
    plan = [task("a", turn=1), task("b", "a", turn=1), task("c", turn=1), task("d", "b", turn=1)]
    assert play(plan, {"cpu": 8}, {"a": 5}) == [(0, ["a"]), (5, ["b"]), (6, ["c"]), (7, ["d"])]


def test_scores_run_beside_generation_and_both_models_on_two_devices():
    plan = [
        task("base/x", devices=1, base=1),
        task("base/y", devices=1, base=1),
        task("aligned/x", devices=1, aligned=1),
        task("score/x", "base/x", cpu=1),
        task("judge/x", "base/x", "aligned/x", endpoints=1),
        task("judge/y", "base/y", endpoints=1),
    ]
    assert play(plan, {"devices": 2, "cpu": 1}) == [
        (0, ["base/x", "aligned/x"]),
        (1, ["base/y", "score/x", "judge/x"]),
        (2, ["judge/y"]),
    ]
    assert play(plan, {"devices": 1, "cpu": 1}) == [
        (0, ["base/x"]),
        (1, ["base/y", "score/x"]),
        (2, ["aligned/x", "judge/y"]),
        (3, ["judge/x"]),
    ]


def test_a_later_task_passes_only_where_it_needs_nothing_that_an_earlier_one_waits_for():
    plan = [task("one", devices=1), task("all", devices=2), task("small", devices=1), task("score", cpu=1)]
    assert startable(plan, set(), {"one"}, {"devices": 2, "cpu": 1}) == ["score"], "a device is free, and kept for `all`"
    assert startable(plan, {"one"}, set(), {"devices": 2, "cpu": 1}) == ["all", "score"]
    assert startable(plan, {"one", "all"}, {"score"}, {"devices": 2, "cpu": 1}) == ["small"]


def test_who_needs_many_devices_gets_them_though_small_tasks_never_end():
    """Small ones that take turns on one of two devices would keep the other from being free at the same time."""
    small = [task(f"small{number}", devices=1) for number in range(20)]
    plan = [*small[:2], task("all", devices=2), *small[2:]]
    begun = play(plan, {"devices": 2}, {f"small{number}": 2 + number % 2 for number in range(20)})
    assert begun[0] == (0, ["small0", "small1"]) and begun[1] == (3, ["all"])


def test_a_resource_without_a_total_is_one():
    plan = [task("a", session=1), task("b", session=1), task("c")]
    assert startable(plan, set(), set(), {}) == ["a", "c"]


@pytest.mark.parametrize("seed", range(30))
def test_any_plan_ends_and_takes_no_more_than_there_is(seed):
    moments = random.Random(seed)
    totals = {"devices": moments.randint(1, 4), "cpu": moments.randint(1, 3)}
    plan = []
    for number in range(40):
        inputs = [f"t{earlier}" for earlier in range(number) if moments.random() < 0.05]
        resource = moments.choice(["devices", "cpu", "endpoints"])
        needs = {resource: moments.randint(1, totals.get(resource, 1)), f"session{moments.randint(0, 9)}": 1}
        plan.append(Waiting(f"t{number}", inputs, needs))
    seconds = {f"t{number}": moments.randint(1, 5) for number in range(40)}
    begun = play(plan, totals, seconds)
    spans = {name: (at, at + seconds[name]) for at, names in begun for name in names}
    assert len(spans) == 40 and begun == play(plan, totals, seconds)
    for at in range(max(end for _, end in spans.values())):
        taken = Counter()
        for one in plan:
            if spans[one.name][0] <= at < spans[one.name][1]:
                taken.update(one.needs)
        assert all(number <= totals.get(resource, 1) for resource, number in taken.items())
    assert all(spans[name][1] <= spans[one.name][0] for one in plan for name in one.inputs)
