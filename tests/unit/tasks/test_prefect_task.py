"""The bar on a task's page: a server that is gone or slow holds up no stage, and the bar ends at what was said last."""

import threading
from uuid import uuid4

import httpx
import pytest

from tasks import prefect_task as module
from tasks.prefect_task import ProgressBar


@pytest.fixture
def server(monkeypatch):
    """A Prefect server: what it was told, and what it does with each call."""

    class Server:
        def __init__(self):
            self.told, self.does = [], lambda: None

        def create(self, progress, key, description):
            self.does()
            self.told.append((key, progress, description))
            return uuid4()

        def update(self, artifact_id, progress, description):
            self.does()
            self.told.append((progress, description))

    server = Server()
    monkeypatch.setattr(module, "create_progress_artifact", server.create)
    monkeypatch.setattr(module, "update_progress_artifact", server.update)
    monkeypatch.setattr(module, "PROGRESS_INTERVAL_S", 0.0)
    return server


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.HTTPStatusError("500", request=None, response=None)])
def test_a_server_that_is_gone_or_ill_stops_no_stage(server, error):
    lost = []

    def fail():
        raise error

    bar = ProgressBar("train", lost.append)
    server.does = fail
    bar(1, 4, "steps")
    bar.wait(10)
    assert lost == [error]
    server.does = lambda: None
    bar(2, 4, "steps")
    bar.wait(10)
    assert server.told == [("train", 50.0, "steps")], "once it is there again, so is the bar"


def test_a_server_that_does_not_answer_is_not_waited_for_and_hears_the_newest(server):
    asked, answer = threading.Event(), threading.Event()

    def hang():
        asked.set()
        assert answer.wait(10)

    bar = ProgressBar("train", lambda error: None)
    server.does = hang
    bar(1, 4, "steps")
    assert asked.wait(10)
    for done in (2, 3, 4):
        bar(done, 4, "steps")
    bar.wait(0.01)
    assert server.told == []
    answer.set()
    bar.wait(10)
    assert server.told == [("train", 25.0, "steps"), (100.0, "steps")]
