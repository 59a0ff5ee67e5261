"""A run whose Prefect server hangs while it is at work, and one whose own process is stopped."""

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Bnf
from tests.e2e.tiny import Judge, judged_model, make_inputs
from tests.stub_server import StubServer

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]


@pytest.fixture
def judge() -> Judge:
    """It doesn't answer before it is told to."""
    judge = Judge()
    judge.answers.clear()
    return judge


@pytest.fixture
def judging(model, judge, tmp_path) -> Iterator[tuple[Bnf, subprocess.Popen]]:
    """A home, and a run in it that waits for its judge."""
    make_inputs(tmp_path)
    bnf = Bnf(tmp_path)
    with StubServer(judge) as endpoint:
        process = bnf.process(*judged_model(tmp_path, endpoint), "--json")
        bnf.wait(process, lambda: endpoint.requests)
        yield bnf, process
        judge.answers.set()
        process.kill()
        process.wait()


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return list(itertools.chain.from_iterable([child, *descendants(child)] for child in children))


def test_a_run_whose_prefect_server_hangs_goes_on_and_is_complete(judging, judge):
    """It takes the server's connections, and answers none: as one whose database or disk hangs."""
    bnf, process = judging
    keeper = json.loads((bnf.home / "state" / "prefect" / "server.json").read_text())["keeper"]
    stopped = descendants(keeper)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        judge.answers.set()
        out, err = process.communicate(timeout=1500)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert process.returncode == 0, err
    assert err.count("Prefect's server could not be told how far the run is") == 1
    shown = json.loads(out)
    assert shown["state"] == "completed" and {"judge/mt_bench", "report"} <= shown["tasks"].keys()
    bnf.wait_for_no_processes()


def test_a_run_that_is_stopped_is_named_by_cancel_and_ends_once_it_goes_on(judging, judge):
    bnf, process = judging
    process.send_signal(signal.SIGSTOP)
    bnf("cancel", "latest", code=1)
    assert f"its process {process.pid} is stopped, and hears nothing; `kill -CONT {process.pid}` lets it end" in bnf.err
    assert bnf.json("show", "latest")["state"] == "running"
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "the run was cancelled; the same command goes on" in err
    assert bnf.json("show", "latest")["state"] == "cancelled"
