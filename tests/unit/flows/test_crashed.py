"""The automation that marks silent runs as crashed: made once, and anew where the server has one of another version."""

from datetime import timedelta
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import Automation

from flows.service import crashed
from flows.service.crashed import watch_for_silence


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
