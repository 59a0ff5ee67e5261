"""`bnf cancel`: it ends, whatever the run's process does; and a run goes on where nobody can be asked whether it was cancelled."""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import StateType

from flows.commands import upkeep
from flows.recipe.config import make_recipe
from flows.runs.owner import Owner, owner_of
from flows.runs.record import find_run, start_run
from flows.service import cancel as module
from flows.service import server

RECIPE = {"name": "r", "model_name_or_path": "m"}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The flow runs that Prefect was asked to cancel; nothing comes of it by itself."""
    asked = []
    monkeypatch.setenv("BNF_HOME", str(tmp_path))
    monkeypatch.setattr(upkeep, "set_prefect_environment", lambda home: None)
    monkeypatch.setattr(upkeep, "_END_S", 0.3)
    monkeypatch.setattr(server, "prefect_server", lambda home: contextlib.nullcontext())
    monkeypatch.setattr(module, "cancel", lambda id: asked.append(str(id)))
    return asked


@pytest.fixture
def elsewhere(tmp_path):
    """A process that has begun a run in this home."""
    script = f"""
        import signal
        from pathlib import Path
        from flows.recipe.config import make_recipe
        from flows.runs.record import start_run
        run = start_run(Path({str(tmp_path)!r}), make_recipe({RECIPE!r}), {str(uuid4())!r})
        print(run.id, flush=True)
        signal.pause()
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    process.run = process.stdout.readline().strip()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_stopped_process_is_not_waited_for_for_ever(asked, elsewhere):
    os.kill(elsewhere.pid, signal.SIGSTOP)
    message = rf"RUN must end within 0 s of being cancelled, got {elsewhere.run}, .* its process {elsewhere.pid} is stopped"
    with pytest.raises(
        RuntimeError, match=rf"{message}, .*`kill -CONT {elsewhere.pid}` lets it end, `kill -9 {elsewhere.pid}`"
    ):
        upkeep.cancel_run("latest", as_json=False)
    assert len(asked) == 1


def test_a_process_that_was_stopped_while_it_started_is_named_too(asked, elsewhere, tmp_path, monkeypatch):
    """Prefect doesn't know it yet."""
    os.kill(elsewhere.pid, signal.SIGSTOP)
    file = tmp_path / "runs" / elsewhere.run / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"flow_run_id": None}))
    monkeypatch.setattr(upkeep, "_START_S", 0.1)
    with pytest.raises(
        RuntimeError, match=rf"must begin within 0 s to be cancelled, .* its process {elsewhere.pid} is stopped"
    ):
        upkeep.cancel_run("latest", as_json=False)
    assert not asked


def test_a_process_that_heard_nothing_is_named(asked, elsewhere):
    with pytest.raises(
        RuntimeError, match=rf"its process {elsewhere.pid} may ask another Prefect server, .*`kill {elsewhere.pid}`"
    ):
        upkeep.cancel_run("latest", as_json=False)


def test_a_process_of_another_machine_is_not_looked_for_here(asked, elsewhere, tmp_path):
    (tmp_path / "runs" / elsewhere.run / "alive.lock").write_text(f"node-7 {elsewhere.pid}\n")
    with pytest.raises(RuntimeError, match="its process is on node-7; end it there"):
        upkeep.cancel_run("latest", as_json=False)
    (tmp_path / "runs" / elsewhere.run / "alive.lock").write_text("")
    with pytest.raises(RuntimeError, match="its process is on another machine"):
        upkeep.cancel_run("latest", as_json=False)


def test_a_run_that_ends_is_told(asked, tmp_path, monkeypatch, capsys):
    run = start_run(tmp_path, make_recipe(RECIPE), str(uuid4()))
    monkeypatch.setattr(module, "cancel", lambda id: run.end("cancelled"))
    upkeep.cancel_run("latest", as_json=False)
    assert capsys.readouterr().out == f"{run.id}  cancelled\n"


def test_a_run_says_whose_process_is_at_it(tmp_path):
    run = start_run(tmp_path, make_recipe(RECIPE), None)
    owner = owner_of(run.folder)
    assert owner == Owner(platform.node(), os.getpid()) and owner.is_here and not owner.is_stopped
    assert not Owner("node-7", os.getpid()).is_here
    assert find_run(tmp_path, run.id).state == "running"


@pytest.fixture
def states(monkeypatch):
    """What the server says of the flow run's state, one after another; an error is raised."""
    states = []

    def read_flow_run(id):
        found = states.pop(0) if len(states) > 1 else states[0]
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(state=SimpleNamespace(type=found))

    client = SimpleNamespace(read_flow_run=read_flow_run)
    monkeypatch.setattr(module, "get_client", lambda **options: contextlib.nullcontext(client))
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    return states


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), ValueError("no JSON")])
def test_a_server_that_is_away_or_ill_cancels_nothing_and_is_asked_again(states, error):
    states += [StateType.RUNNING, error, error, StateType.RUNNING, StateType.CANCELLING]
    with module.cancellation(uuid4()) as cancelled:
        deadline_s = time.monotonic() + 10
        while not cancelled():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    assert len(states) == 1


def test_a_run_whose_server_hangs_ends_all_the_same(states, monkeypatch):
    monkeypatch.setattr(
        module, "get_client", lambda **options: contextlib.nullcontext(SimpleNamespace(read_flow_run=lambda id: time.sleep(20)))
    )
    started_s = time.monotonic()
    with module.cancellation(uuid4()) as cancelled:
        time.sleep(0.1)
        assert not cancelled()
    assert time.monotonic() - started_s < 10
