"""A Prefect server that is gone, or ill, changes nothing of how a run ends, and is told of once."""

import contextlib
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from prefect.exceptions import CancelledRun

from flows import align
from flows.dag.selection import Options
from flows.recipe.config import make_recipe
from flows.runner import Listener
from flows.runs.record import find_run
from flows.service.unshown import OUTCOME, Unshown, carry_out
from tasks.child import Cancelled, StageFailed

GONE = httpx.ConnectError("All connection attempts failed")


def test_the_first_error_is_said_and_no_other():
    said = []
    unshown = Unshown(said.append)
    for error in (GONE, ValueError("500\nmore")):
        with unshown.left_out():
            raise error
    assert said == [
        "Prefect's server could not be told how far the run is (ConnectError: All connection attempts failed): the run goes on without "
        "it; Prefect's pages may lack some of it, and run.json has everything"
    ]
    with pytest.raises(KeyboardInterrupt), unshown.left_out():
        raise KeyboardInterrupt


def called(*, run=None, error=None, raised=None):
    """What `carry_out` raises and says of a flow that gave a run or an error, and raised something."""
    said = []

    def flow():
        outcome = OUTCOME.get()
        outcome.run, outcome.error = run, error
        if raised is not None:
            raise raised

    try:
        carry_out(flow, said.append)
    except BaseException as found:
        return found, len(said)
    return None, len(said)


@pytest.mark.parametrize("error", [StageFailed("full"), Cancelled("cancelled"), KeyboardInterrupt(), SystemExit(143)])
def test_a_flow_ends_as_its_work_ended_though_the_server_is_gone(error):
    assert called(run="r") == (None, 0)
    assert called(run="r", raised=GONE) == (None, 1)
    assert called(error=error, raised=GONE) == (error, 1)


def test_what_the_server_has_no_part_in_is_raised_as_it_is():
    error, cancelled = StageFailed("full"), CancelledRun()
    assert called(error=error, raised=error) == (error, 0)
    assert called(error=Cancelled("x"), raised=cancelled) == (cancelled, 0)
    assert called(raised=GONE) == (GONE, 0), "before the work began"


@pytest.fixture
def body(tmp_path, monkeypatch):
    """The flow's body with a server that is gone; it returns the run as its record has it, and what was said."""

    def gone(*args, **kwargs):
        raise GONE

    def call():
        said, runs = [], []
        plan = SimpleNamespace(
            home=tmp_path,
            recipe=make_recipe({"name": "r", "model_name_or_path": "m"}),
            options=Options(),
            pinned={},
            changed={},
        )
        token = align.LISTENER.set(Listener(on_run=runs.append, on_message=said.append))
        try:
            carry_out(lambda: align._align(plan, OUTCOME.get()), said.append)
        finally:
            align.LISTENER.reset(token)
            body.found = find_run(tmp_path, runs[0].id).record, said

    def runner(plan, run, *args):
        (run.folder / "summary.json").write_text("{}")
        return SimpleNamespace(run=lambda: body.work())

    body = SimpleNamespace(call=call, found=None, work=lambda: None)
    monkeypatch.setattr(align, "flow_run", SimpleNamespace(get_id=lambda: str(uuid4())))
    monkeypatch.setattr(align, "cancellation", lambda id: contextlib.nullcontext(lambda: False))
    monkeypatch.setattr(align, "get_run_logger", lambda: SimpleNamespace(info=lambda *args: None))
    monkeypatch.setattr(align, "Runner", runner)
    for name in ("get_client", "create_table_artifact", "create_link_artifact"):
        monkeypatch.setattr(align, name, gone)
    return body


def test_a_run_is_complete_though_nobody_could_be_shown_its_results(body):
    body.call()
    record, said = body.found
    assert record.state == "completed" and len(said) == 1 and "run.json has everything" in said[0]


def test_a_run_that_several_signals_end_is_stopped(body, monkeypatch):
    def signalled():
        raise KeyboardInterrupt

    body.work = signalled
    # The second one comes while the first is answered.
    monkeypatch.setattr(align, "deployment", SimpleNamespace(get_id=signalled))
    with pytest.raises(KeyboardInterrupt):
        body.call()
    assert (body.found[0].state, body.found[0].why) == ("stopped", None)


def test_a_run_that_failed_says_why_and_not_that_the_server_is_gone(body):
    def fail():
        raise StageFailed("the disk is full")

    body.work = fail
    with pytest.raises(StageFailed, match="the disk is full"):
        body.call()
    assert (body.found[0].state, body.found[0].why) == ("failed", "the disk is full")
