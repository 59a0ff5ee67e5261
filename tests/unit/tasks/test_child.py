"""Child processes: output and progress arrive, every way to fail becomes one readable error, and nothing is left over."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from tasks.child import STOP_GRACE_S, Child, StageFailed, without_tracebacks

JOBS = "tests.unit.tasks.jobs.work"


@pytest.fixture
def child(tmp_path):
    logs, progress = [], []
    child = Child({"EXTRA": "1"}, tmp_path / "logs" / "job.log", logs.append, lambda *args: progress.append(args))
    child.seen = (logs, progress)
    yield child
    child.kill()


def test_output_and_progress_are_passed_on_and_kept(child, tmp_path):
    child.run(JOBS, {"do": "write"}, {}, tmp_path)
    logs, progress = child.seen
    assert "a line of output" in "\n".join(logs)
    assert progress[-1] == (2, 2, "whole")
    assert "a line of output" in (tmp_path / "logs" / "job.log").read_text()


def test_jobs_share_one_process(child, tmp_path):
    child.run(JOBS, {"do": "write"}, {}, tmp_path)
    first = (tmp_path / "out.txt").read_text().split()
    child.run(JOBS, {"do": "write"}, {}, tmp_path)
    assert (tmp_path / "out.txt").read_text().split() == ["2", first[1]]


def test_what_a_job_left_holding_itself_is_freed_before_the_next_one(child, tmp_path):
    child.run(JOBS, {"do": "hold itself"}, {}, tmp_path)
    child.run(JOBS, {"do": "look"}, {}, tmp_path)
    assert (tmp_path / "out.txt").read_text() == "gone"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps the most that a process has held")
def test_the_most_memory_of_a_job_is_its_own_and_that_of_what_it_started(child, tmp_path):
    def peak(what):
        child.run(JOBS, {"do": what}, {}, tmp_path)
        return child.memory.to_json()["host"]

    before, taken = peak("write"), peak("take memory")
    assert taken - before > 140 << 20, "though it was given back before anybody looked"
    assert peak("write") - before < 50 << 20, "of each job alone"
    assert peak("take memory in a process of its own") - before > 140 << 20


@pytest.mark.integration
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no other C library keeps what is freed on request")
def test_what_a_training_had_its_process_keep_is_given_back_after_it():
    program = """
import torch
from bnf.model.allocator import keep_freed_memory
from tasks.worker import _free_memory


def resident():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
    return int(line.split()[1]) >> 10


keep_freed_memory()
torch.ones(1)
before = resident()
torch.ones(30 << 18)
kept = resident() - before
_free_memory()
print(kept, resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 25 and left < 5, "MiB"


def test_a_users_error_is_its_message_alone(child, tmp_path):
    with pytest.raises(StageFailed, match=r"^limit must be positive, got -1; leave it out \(log: .*job\.log\)$"):
        child.run(JOBS, {"do": "refuse"}, {}, tmp_path)


def test_any_other_error_has_its_kind_and_the_last_lines(child, tmp_path):
    with pytest.raises(StageFailed, match=r"RuntimeError: something broke\n(.|\n)*whole log: .*job\.log") as failed:
        child.run(JOBS, {"do": "raise"}, {}, tmp_path)
    assert "Traceback" not in str(failed.value) and 'File "' not in str(failed.value)
    assert "Traceback" in (tmp_path / "logs" / "job.log").read_text()


def test_tracebacks_are_left_out_of_last_lines_and_what_they_say_is_not():
    lines = """before
Traceback (most recent call last):
  File "/a.py", line 3, in f
    g()
    ~^^
  File "/b.py", line 4, in g
    raise KeyError("x")
KeyError: 'x'
During handling of the above exception, another exception occurred:
Traceback (most recent call last):
  File "/c.py", line 5, in h
    raise ValueError
ValueError: it must be so, got
  something of two lines
(EngineCore pid=12) ERROR 11-28 10:00:00 [core.py:700] Traceback (most recent call last):
(EngineCore pid=12) ERROR 11-28 10:00:00 [core.py:700]   File "/d.py", line 6, in k
(EngineCore pid=12) ERROR 11-28 10:00:01 [core.py:700]     m()
(EngineCore pid=12) ERROR 11-28 10:00:01 [core.py:700] RuntimeError: no memory
  indented, and no traceback's""".splitlines()
    assert without_tracebacks(lines) == [
        "before",
        "KeyError: 'x'",
        "ValueError: it must be so, got",
        "  something of two lines",
        "(EngineCore pid=12) ERROR 11-28 10:00:01 [core.py:700] RuntimeError: no memory",
        "  indented, and no traceback's",
    ]
    # The beginning may be cut off.
    assert without_tracebacks(lines[2:8]) == ["KeyError: 'x'"]


def test_a_killed_process_is_named_with_its_signal_and_last_lines(child, tmp_path):
    with pytest.raises(StageFailed, match=r"exit -9 \(SIGKILL.*out-of-memory(.|\n)*about to die"):
        child.run(JOBS, {"do": "die"}, {}, tmp_path)


def test_an_exit_without_a_report_is_an_error(child, tmp_path):
    with pytest.raises(StageFailed, match="status 7 without a report"):
        child.run(JOBS, {"do": "exit"}, {}, tmp_path)


def test_an_idle_process_lets_libraries_end_and_does_not_wait_for_the_rest(child, tmp_path):
    child.run(JOBS, {"do": "keep"}, {}, tmp_path)
    child.close()
    assert child._process.returncode == 0, "killed after its grace"
    assert (tmp_path / "ended").read_text() == "by the library"


def begun(child, tmp_path, settings):
    """The job on a thread, and what came of it."""
    came = []

    def run():
        try:
            came.append(child.run(JOBS, settings, {}, tmp_path))
        except (StageFailed, ValueError, OSError) as error:
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, came


def read(file):
    """A file's words, once it has some."""
    deadline_s = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return file.read_text().split()


def test_a_stopped_process_can_be_ended(child, tmp_path):
    thread, _ = begun(child, tmp_path, {"do": "hang"})
    pid, helper = map(int, read(tmp_path / "pids"))
    os.kill(pid, signal.SIGSTOP)
    started_s = time.monotonic()
    child.kill()
    while running(pid) or running(helper):
        assert time.monotonic() - started_s < STOP_GRACE_S + 20
        time.sleep(0.02)
    thread.join(10)


def test_a_process_that_was_stopped_goes_on(child, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    thread, came = begun(child, tmp_path, {"do": "meet", "place": str(place), "number": 0, "expected": 2})
    pid = int(read(place / "0")[0])
    os.kill(pid, signal.SIGSTOP)
    (place / "1").touch()
    thread.join(2)
    assert thread.is_alive() and not came, "it is waited for"
    os.kill(pid, signal.SIGCONT)
    thread.join(60)
    assert came == [None] and (tmp_path / "out.txt").exists()


def test_kill_ends_the_whole_process_group(child, tmp_path):
    def kill_when_ready():
        while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
            time.sleep(0.02)
        child.kill()

    thread = threading.Thread(target=kill_when_ready)
    thread.start()
    with pytest.raises((StageFailed, ValueError, OSError)):
        child.run(JOBS, {"do": "hang"}, {}, tmp_path)
    thread.join()
    # A killed process still has to get its turn to end: on a busy machine not at once.
    deadline = time.monotonic() + 5
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        while running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
