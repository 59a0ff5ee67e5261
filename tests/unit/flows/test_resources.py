"""What a run may have at work at the same time, and what `bnf show` draws of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from flows import display
from flows.dag import resources
from flows.dag.resources import one_at_a_time, problem, totals, waiting
from flows.recipe.config import make_recipe
from tasks.nodes import Node
from tasks.resources import Devices

GENERATE = Node("generate", {"engine": {"name": "vllm"}}, session="generate/base", role="base", benchmark="x")
JUDGE = Node("judge", {"engine": {"name": "openai"}}, {"answers": GENERATE.id}, session="judge/judge", role="judge")
TRAIN = Node("train", {}, unkeyed={"nproc_per_node": 2, "num_nodes": 1})


def recipe(**sections):
    return make_recipe({"name": "r", "model_name_or_path": "m", "resources": sections})


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs, or without."""

    def has(gpus):
        found = [("H100", 80 << 30)] * gpus
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name in ("tasks.resources.devices", "flows.dag.resources.devices"):
            monkeypatch.setattr(name, lambda: found)
        for name in ("tasks.resources.own_cores", "flows.dag.resources.own_cores"):
            monkeypatch.setattr(name, lambda: [0, 1, 2, 3])

    return has


def test_one_device_runs_one_at_a_time_unless_something_else_computes(machine):
    machine(0)
    assert totals(recipe()) == {"devices": 1, "cpu_slots": 4} and one_at_a_time(recipe(), [GENERATE, TRAIN])
    assert not one_at_a_time(recipe(), [GENERATE, JUDGE])
    assert not one_at_a_time(recipe(cpu_slots=1), [GENERATE])
    assert not one_at_a_time(recipe(devices=2), [GENERATE]) and totals(recipe(devices=2))["devices"] == 2
    machine(1)
    assert one_at_a_time(recipe(), [GENERATE])
    machine(8)
    assert not one_at_a_time(recipe(), [GENERATE]) and totals(recipe(cpu_slots=2)) == {"devices": 8, "cpu_slots": 2}
    assert one_at_a_time(recipe(devices=1), [GENERATE])


def test_a_node_waits_for_its_session_and_its_device_and_a_cached_one_for_neither():
    assert waiting(GENERATE, 4, is_cached=False, alone=False).needs == {"devices": 1, "session generate/base": 1}
    assert waiting(GENERATE, 4, is_cached=True, alone=False).needs == {resources.CACHED: 1}
    assert waiting(JUDGE, 4, is_cached=True, alone=True).needs == {resources.TURN: 1}
    assert waiting(JUDGE, 4, is_cached=False, alone=False).inputs == (GENERATE.id,)


@pytest.mark.parametrize(
    ("gpus", "wanted", "message"),
    [
        (0, 4, None),
        (0, 5, r"resources.devices must be at most 4, this machine's cores, which are shared out, got 5; lower it"),
        (2, 2, None),
        (2, 3, r"resources.devices must be at most 2, this machine's GPUs, got 3; lower it"),
        (8, 1, r"resources.devices must be at least 2, the GPUs that train computes on, got 1; raise it"),
        (0, 1, None),
    ],
)
def test_devices_that_a_machine_lacks_or_a_node_needs_are_said(machine, gpus, wanted, message):
    machine(gpus)
    found = problem(recipe(devices=wanted), [GENERATE, TRAIN])
    assert found is None if message is None else found.startswith(message)
    assert problem(recipe(), [GENERATE, TRAIN]) is None


def test_a_training_on_several_machines_needs_as_many_devices_as_it_has_processes_on_each(machine):
    machine(8)
    train = {"nproc_per_node": 2, "num_nodes": 2}
    for node in (Node("train", {}, unkeyed=train), Node("budget", {"train": train})):
        assert problem(recipe(devices=4), [node]) is problem(recipe(devices=2), [node]) is None
        message = f"resources.devices must be at least 2, the GPUs that {node.label} computes on, got 1; raise it"
        assert problem(recipe(devices=1), [node]) == message


def test_what_ray_places_does_with_the_devices_that_there_are(machine):
    machine(8)
    train = Node("train", {}, unkeyed={"nproc_per_node": 4, "num_nodes": 1})
    for address in ("local", "auto"):
        nodes = [replace(node, unkeyed={**node.unkeyed, "ray": address}) for node in (GENERATE, Node("reference", {}))]
        assert problem(recipe(devices=4), [*nodes, train]) is None
    # On this machine alone replicas need as many as without Ray.
    placed = {"ray": "local", "engine_placement": {"num_replicas": 6}}
    message = "resources.devices must be at least 6, the GPUs that generate-base-x computes on, got 4; raise it"
    assert problem(recipe(devices=4), [replace(GENERATE, unkeyed=placed)]) == message


def test_of_many_tasks_at_work_as_many_are_named_as_fit():
    shown, terminal = [], display.Display()
    terminal.console = Console(stderr=True, width=80)
    terminal.status = SimpleNamespace(update=lambda text: shown.append(text.plain), start=lambda: None, stop=lambda: None)
    for number in range(20):
        terminal.start(Node("score", {}, role="base", benchmark=f"b{number}"))
        *named, last = shown[-1].split("  │  ")
        if not last.startswith("+"):
            named, last = [*named, last], "+0"
        # Two columns are the spinner's.
        assert len(shown[-1]) <= 78 and all(text.startswith(f"score-base-b{place}") for place, text in enumerate(named))
        assert len(named) + int(last) == number + 1
    assert len(named) == 3 and shown[0] == "score-base-b0 …"


def test_the_timeline_shows_what_was_at_work_together():
    times = {"a": ("00:00.000", "00:10.000"), "b": ("00:05.000", "00:20.000"), "c": ("00:20.000", "00:20.001")}
    spans = {name: tuple(f"2026-01-01T10:{time}+00:00" for time in span) for name, span in times.items()}
    heading, bars = display.timeline(spans)
    assert heading == "10:00:00 to 10:00:20"
    assert bars == {"a": "█" * 20 + "·" * 20, "b": "·" * 10 + "█" * 30, "c": "·" * 39 + "█"}


def test_a_run_that_has_a_part_of_the_machine_counts_that_part(machine):
    machine(4)
    one = Devices(gpus=["2"], all_here=False)
    assert (totals(recipe())["devices"], totals(recipe(), one, 2)) == (4, {"devices": 1, "cpu_slots": 2})
    asked = [totals(recipe(cpu_slots=slots), one, 2)["cpu_slots"] for slots in (1, 4)]
    assert asked == [1, 2], "what a person asked for is not exceeded, and the others' part isn't taken"
    assert one_at_a_time(recipe(), [GENERATE], one) and not one_at_a_time(recipe(), [GENERATE])
