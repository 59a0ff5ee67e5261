"""The machine's accelerator, with a Prefect server that is made up."""

import contextlib

import httpx
import pytest

from flows.service import accelerator as module
from tasks.child import Cancelled


@pytest.fixture
def server(monkeypatch):
    """What the server does when a slot is asked for, and when it is given back: each may be an error to raise."""
    does = {"take": [], "give_back": None, "taken": 0}

    @contextlib.contextmanager
    def concurrency(name, **options):
        if does["take"]:
            raise does["take"].pop()
        does["taken"] += 1
        yield
        does["taken"] -= 1
        if does["give_back"] is not None:
            raise does["give_back"]

    @contextlib.contextmanager
    def get_client(sync_client):
        yield None

    monkeypatch.setattr(module, "concurrency", concurrency)
    monkeypatch.setattr(module, "get_client", get_client)
    monkeypatch.setattr(module, "_create", lambda client, name: None)
    return does


def test_who_waits_is_told_once_and_may_be_cancelled(server):
    told = []
    server["take"] = [TimeoutError(), TimeoutError()]
    with module.accelerator(lambda: False, lambda: told.append("waits")):
        assert server["taken"] == 1 and told == ["waits"]
    assert server["taken"] == 0
    server["take"] = [TimeoutError()]
    with pytest.raises(Cancelled, match="while it waited"), module.accelerator(lambda: True, lambda: None):
        pass


def test_a_server_that_is_gone_at_the_end_loses_nothing_that_was_computed(server):
    server["give_back"] = httpx.ConnectError("refused")
    with module.accelerator(lambda: False, lambda: None):
        computed = True
    assert computed and server["taken"] == 0
    with pytest.raises(ValueError, match="wrong"), module.accelerator(lambda: False, lambda: None):
        raise ValueError("wrong")
