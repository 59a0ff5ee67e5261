"""The automation that marks silent runs as crashed: made once, and anew where the server has one of another version."""

import contextlib
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation

from flows.recipe.config import make_recipe
from flows.runs.record import all_runs, find_run, start_run
from flows.runs.sweeps import SweepRecord, SweepRun, begin, find_sweep, held
from flows.service import crashed
from flows.service.crashed import watch_for_silence

RECIPE = {"name": "r", "model_name_or_path": "m"}


class Client:
    """A server that keeps automations, and gives them back as JSON has them."""

    def __init__(self):
        self.automations, self.deleted = {}, 0

    def read_automations_by_name(self, name):
        return [one for one in self.automations.values() if one.name == name]

    def create_automation(self, wanted):
        id = uuid4()
        self.automations[id] = Automation.model_validate({**wanted.model_dump(mode="json"), "id": str(id)})

    def delete_automation(self, id):
        del self.automations[id]
        self.deleted += 1


def test_one_that_is_as_wanted_stays():
    client = Client()
    assert watch_for_silence(client) and not watch_for_silence(client)
    assert len(client.automations) == 1 and client.deleted == 0


@pytest.mark.parametrize("part", ["silence", "actions", "description"])
def test_one_of_another_version_is_replaced(monkeypatch, part):
    client = Client()
    watch_for_silence(client)
    (one,) = client.automations.values()
    if part == "silence":
        monkeypatch.setattr(crashed, "SILENCE", timedelta(seconds=240))
    elif part == "actions":
        one.actions = [ChangeFlowRunState(state=StateType.FAILED, name="Failed", message="it is gone")]
    else:
        one.description = "Marks runs."
    assert watch_for_silence(client) and client.deleted == 1
    (new,) = client.automations.values()
    assert new.trigger.within == crashed.SILENCE and new.actions[0].state == StateType.CRASHED
    assert not watch_for_silence(client)


def test_a_run_that_died_while_it_started_is_nothing_to_prefect_and_one_that_starts_holds_no_slot(tmp_path, monkeypatch):
    """The run that marks others is one of those that start: it must not keep the slot of a dead one."""
    told, freed = [], []
    client = SimpleNamespace(set_flow_run_state=lambda id, *args, **kwargs: told.append(str(id)))
    monkeypatch.setattr(crashed, "get_client", lambda **kwargs: contextlib.nullcontext(client))
    monkeypatch.setattr(crashed, "own_server", lambda home: True)
    monkeypatch.setattr(crashed, "free", lambda: freed.append(True))
    recipe, id = make_recipe(RECIPE), str(uuid4())
    dead = [start_run(tmp_path, recipe, flow_run) for flow_run in (None, id)]
    for run in dead:
        run._alive.close()
    starting = start_run(tmp_path, recipe, None)
    crashed.mark_crashed(tmp_path)
    assert told == [id] and freed == [True]
    assert {find_run(tmp_path, run.id).record.state for run in dead} == {"crashed"}
    starting.known_as(str(uuid4()))
    crashed.mark_crashed(tmp_path)
    assert freed == [True]


@pytest.fixture
def telling(tmp_path, monkeypatch):
    """Prefect's client; `telling.meanwhile` is called when it is told of a state."""
    telling = SimpleNamespace(meanwhile=lambda: None, told=[])

    def tell(id, *args, **kwargs):
        telling.told.append(str(id))
        telling.meanwhile()

    client = SimpleNamespace(set_flow_run_state=tell)
    monkeypatch.setattr(crashed, "get_client", lambda **kwargs: contextlib.nullcontext(client))
    monkeypatch.setattr(crashed, "own_server", lambda home: False)
    return telling


def test_a_sweep_that_is_begun_anew_meanwhile_keeps_its_record(tmp_path, telling):
    def record(flow_run_id):
        return SweepRecord("s", "s.yaml", "bnf sweep s.yaml", {}, None, [SweepRun("s-0", {})], flow_run_id=flow_run_id)

    old, new = str(uuid4()), str(uuid4())
    with held(tmp_path, "s"):
        begin(tmp_path, record(old), None)
    with contextlib.ExitStack() as begun:

        def begin_anew():
            begun.enter_context(held(tmp_path, "s"))
            begin(tmp_path, record(new), None)

        telling.meanwhile = begin_anew
        crashed.mark_crashed(tmp_path)
        found = find_sweep(tmp_path, "s")
        assert telling.told == [old] and (found.state, found.record.flow_run_id) == ("running", new)
    telling.meanwhile = lambda: None
    crashed.mark_crashed(tmp_path)
    assert telling.told == [old, new] and find_sweep(tmp_path, "s").record.state == "crashed"


def test_what_ends_in_order_between_two_looks_has_not_crashed(tmp_path, telling, monkeypatch):
    """Its last record would be replaced by the one that was read before."""
    run = start_run(tmp_path, make_recipe(RECIPE), str(uuid4()))

    def runs(home):
        found = all_runs(home)
        run.end("completed")
        return found

    monkeypatch.setattr(crashed, "all_runs", runs)
    crashed.mark_crashed(tmp_path)
    assert telling.told == [] and find_run(tmp_path, run.id).record.state == "completed"

    dead = start_run(tmp_path, make_recipe(RECIPE), str(uuid4()))
    dead._alive.close()
    telling.meanwhile = lambda: dead.end("completed")
    monkeypatch.setattr(crashed, "all_runs", all_runs)
    crashed.mark_crashed(tmp_path)
    assert len(telling.told) == 1 and find_run(tmp_path, dead.id).record.state == "completed"
