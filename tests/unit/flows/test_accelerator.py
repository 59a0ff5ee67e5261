"""The machine's accelerator, with a Prefect server that is made up."""

import contextlib
import json
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest

from flows.service import accelerator as module
from tasks.child import Cancelled


@pytest.fixture
def server(monkeypatch, tmp_path):
    """What the server does when a slot is asked for, and when it is given back: each may be an error to raise. `limit` is what it says of
    the limit.
    """
    limit = SimpleNamespace(active=True, limit=1)
    does = {"take": [], "give_back": None, "taken": 0, "limit": limit, "freed": 0}

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
    def get_client(**options):
        if isinstance(does["limit"], Exception):
            raise does["limit"]
        yield SimpleNamespace(read_global_concurrency_limit_by_name=lambda name: does["limit"])

    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    monkeypatch.setattr(module, "free", lambda: does.update(freed=does["freed"] + 1))
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


GONE = httpx.ConnectError("All connection attempts failed")


@pytest.mark.parametrize("error", [GONE, httpx.HTTPStatusError("500", request=None, response=None)])
def test_a_server_that_is_gone_or_ill_stops_no_stage_and_is_told_of(server, error):
    """When a stage begins, while its slot is asked for, and when it ends."""
    told = []
    server["limit"] = error
    server["take"] = [error]
    server["give_back"] = error
    with module.accelerator(lambda: False, lambda: None, told.append):
        computed = True
    with module.accelerator(lambda: False, lambda: None, told.append):
        computed = computed and server["taken"] == 1
    assert computed and told == [error] * 4


def waits_for(*, cancelled=lambda: False):
    """Whether a second run waits for the accelerator; it gives up then."""
    told = []
    try:
        with module.accelerator(lambda: bool(told) or cancelled(), lambda: told.append("waits")):
            return False
    except Cancelled:
        return True


def test_two_runs_of_a_home_never_compute_at_once_though_the_server_gives_the_slot_away(server):
    """The made-up server gives a slot to whoever asks, as Prefect's does once a lease is over by its clock, or when it was restarted."""
    with module.accelerator(lambda: False, lambda: None):
        assert waits_for()
        server["limit"] = GONE
        assert waits_for(), "nor while nobody answers"
    assert not waits_for()


def test_the_number_of_slots_is_that_of_the_server(server):
    server["limit"].limit = 2
    with module.accelerator(lambda: False, lambda: None):
        with module.accelerator(lambda: False, lambda: None):
            assert waits_for()
        assert not waits_for()
        server["limit"].active = False
        assert not waits_for(), "a limit that was switched off"
    server["limit"] = SimpleNamespace(active=True, limit=0)
    assert waits_for()


def test_a_run_that_was_killed_holds_nothing(server, tmp_path):
    assert not waits_for()
    (lock,) = (tmp_path / "prefect").glob("accelerator-*-0.lock")
    script = (
        f"import fcntl, signal; fcntl.flock(file := open({str(lock)!r}), fcntl.LOCK_EX); print(1, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"1\n" and waits_for()
        finally:
            holder.kill()
    assert not waits_for()


def test_a_slot_that_the_homes_own_server_keeps_for_nobody_is_given_back(server, tmp_path, monkeypatch):
    """A server that was restarted has forgotten its leases, and counts their slots for ever."""
    server["take"] = [TimeoutError()]
    with module.accelerator(lambda: False, lambda: None):
        assert server["freed"] == 0, "another home may hold it"
    (tmp_path / "prefect" / "server.json").write_text(json.dumps({"url": "http://127.0.0.1:4200", "keeper": 1}))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    server["take"] = [TimeoutError()]
    with module.accelerator(lambda: False, lambda: None):
        assert server["freed"] == 1
