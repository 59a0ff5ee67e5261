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
from flows.runs.record import find_run, start_run
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
