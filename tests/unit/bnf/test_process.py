"""Child processes end with their parent, and take their own children with them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from bnf.process import ROOT, die_with_parent, module_command, module_environment, signal_group, stop_group

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel, which only Linux has")


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until_gone(pid, timeout_s=10):
    deadline_s = time.monotonic() + timeout_s
    while is_alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return not is_alive(pid)


@linux
def test_a_child_ends_when_its_parent_is_killed():
    child = (
        "import time\nfrom bnf.process import die_with_parent\ndie_with_parent()\nprint('ready', flush=True)\ntime.sleep(300)"
    )
    parent = (
        "import subprocess, sys\nfrom bnf.process import module_environment\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], env=module_environment(), stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint(child.pid, flush=True)\nchild.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
        assert wait_until_gone(pid)


@linux
def test_a_child_whose_parent_is_gone_already_does_not_begin(monkeypatch):
    with pytest.raises(SystemExit, match="the parent process ended before this one began"):
        subprocess_of_nobody = 1
        monkeypatch.setattr("ctypes.CDLL", lambda name: type("Kernel", (), {"prctl": staticmethod(lambda *_: 0)}))
        die_with_parent(subprocess_of_nobody)


def test_a_group_ends_with_its_leader():
    helper = "import signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    helper += "one = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\nprint(one.pid, flush=True)\ntime.sleep(300)"
    leader = subprocess.Popen([sys.executable, "-c", helper], stdout=subprocess.PIPE, start_new_session=True)
    with leader:
        grandchild = int(leader.stdout.readline())
        stop_group(leader, grace_s=0.2)
        assert leader.returncode == -signal.SIGKILL  # it didn't listen to SIGTERM
        assert wait_until_gone(grandchild)
        signal_group(leader.pid, signal.SIGTERM)  # of a group that is gone nothing is left to signal


def test_a_folder_of_the_same_name_does_not_stand_in_for_the_projects_module(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    code = subprocess.run(module_command("tasks.keys"), cwd=tmp_path, env=module_environment({"MARK": "here"}), check=False)
    assert code.returncode == 0
    assert module_environment({"MARK": "here"})["MARK"] == "here"
