"""Calls that never return, crash or eat memory cost their own result and no other's."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bnf.process import ROOT
from evaluation import sandbox
from evaluation.answers.math_verify import Verifier
from evaluation.sandbox import BoundedCalls

FUNCTION = "tests.unit.evaluation.bounded_functions:make"


@pytest.mark.parametrize("argument", ["sleep", "raise", "exit", "memory", "power", "write"])
def test_what_goes_wrong_gives_nothing_and_the_next_call_works(argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with BoundedCalls(FUNCTION, {"offset": 1}, limit_s=0.25) as calls:
        assert calls(1) == 2
        started = time.monotonic()
        assert calls(argument) is None
        assert time.monotonic() - started < 3
        assert calls(2) == 3
    assert not (tmp_path / "written").exists() or not (tmp_path / "written").read_text()


def test_the_process_stays_between_calls_and_ends_with_the_context():
    with BoundedCalls(FUNCTION, {}, limit_s=5) as calls:
        pid = calls("pid")
        assert calls("pid") == pid
    assert subprocess.run(["ps", "-p", str(pid)], capture_output=True).returncode != 0


def test_a_call_may_be_given_more_time_than_the_others():
    with BoundedCalls(FUNCTION, {}, limit_s=0.5) as calls:
        calls(0)
        started = time.monotonic()
        assert calls("sleep", limit_s=1.5) is None
        assert 1.4 < time.monotonic() - started < 4


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all time counts")
@pytest.mark.parametrize(("patience", "found"), [(sandbox.PATIENCE, "done"), (1, None)])
def test_a_call_that_gets_no_core_is_waited_for_but_not_for_ever(monkeypatch, patience, found):
    monkeypatch.setattr(sandbox, "PATIENCE", patience)
    with BoundedCalls(FUNCTION, {}, limit_s=1.0) as calls:
        pid = calls("pid")
        # Stopped, it is as if other programs had all cores.
        os.kill(pid, signal.SIGSTOP)
        going_on = threading.Timer(2.5, os.kill, (pid, signal.SIGCONT))
        going_on.start()
        assert calls("work") == found
        going_on.cancel()


def test_a_function_that_cannot_begin_says_why():
    with pytest.raises(RuntimeError, match="must start in a child process, got RuntimeError: no such library"):
        BoundedCalls("tests.unit.evaluation.bounded_functions:fail", {}, limit_s=1)(0)


def test_a_stuck_child_dies_with_its_parent():
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from evaluation.sandbox import BoundedCalls
calls = BoundedCalls({FUNCTION!r}, {{}}, limit_s=60)
print(calls("pid"), flush=True)
calls("sleep")
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = parent.stdout.readline().strip()
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while subprocess.run(["ps", "-p", pid], capture_output=True).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.integration
def test_symbolic_equality_and_hostile_latex(tmp_path):
    """Nothing of it runs, and each takes no longer than its limit and a new process's start."""
    made = tmp_path / "made"
    hostile = [
        "9^{9^{9^{9}}}",
        f"__import__('pathlib').Path('{made}').touch()",
        "\x00",
        "9" * 5_000_000,
    ]
    with Verifier(limit_s=1.0) as verifier:
        assert verifier.equal(r"\frac{1}{2}", "0.5") is True
        assert verifier.equal("2x+2", "2(x+1)") is True
        assert verifier.equal("1,2", "2,1") is True
        assert verifier.equal("5", "6") is False
        for text in hostile:
            started = time.monotonic()
            assert not verifier.equal("4", text)
            assert time.monotonic() - started < 15, text[:40]
        assert verifier.equal("4", "4") is True
    assert not made.exists()
