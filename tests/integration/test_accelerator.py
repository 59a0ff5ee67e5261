"""The machine's accelerator on a real Prefect server, whose clock ends the lease of a run that can't renew it."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from bnf.process import ROOT
from flows.service.accelerator import LEASE_S
from tests.e2e.conftest import prefect_server

pytestmark = [pytest.mark.integration, pytest.mark.nightly]

HOLD = """
    from flows.service.accelerator import accelerator
    waits = lambda: print("waits", flush=True)
    with accelerator(lambda: False, waits):
        print("has it", flush=True)
        input()
"""
SLOTS = """
    from prefect.client.orchestration import get_client
    from flows.service.accelerator import limit_name
    with get_client(sync_client=True) as client:
        print(client.read_global_concurrency_limit_by_name(limit_name()).active_slots)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a process of a home on a server."""
    with prefect_server(tmp_path) as api:
        monkeypatch.setenv("PREFECT_API_URL", api)
        monkeypatch.setenv("BNF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home" / "prefect"))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        started = []

        def start(script):
            command = [sys.executable, "-c", textwrap.dedent(script)]
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            return started[-1]

        yield start
        for process in started:
            process.kill()
            process.communicate()


def test_a_run_that_was_suspended_keeps_the_accelerator_from_the_others_of_its_home(start):
    """For the server its lease has run out, as it also does where the clock jumps; another run of the home waits all the same."""
    holder = start(HOLD)
    assert holder.stdout.readline() == "has it\n"
    holder.send_signal(signal.SIGSTOP)
    deadline_s = time.monotonic() + 4 * LEASE_S
    while start(SLOTS).communicate()[0] != "0\n":
        assert time.monotonic() < deadline_s, "the server gives the slot away"
        time.sleep(2)
    other = start(HOLD)
    assert other.stdout.readline() == "waits\n"
    holder.send_signal(signal.SIGCONT)
    holder.communicate("\n", timeout=60)
    assert holder.returncode == 0 and other.stdout.readline() == "has it\n"
    other.communicate("\n", timeout=60)
    assert other.returncode == 0
