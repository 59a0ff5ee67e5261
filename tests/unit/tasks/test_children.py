"""Several child processes at once: each on devices of its own, the accelerator held once for all, one's end no other's."""

import contextlib
import os
import time

import pytest

from bnf.plugins import Kind
from bnf.process import signal_group
from tasks import execute as module
from tasks import resources
from tasks.child import Cancelled, StageFailed
from tasks.children import Children
from tasks.execute import Execution, execute
from tasks.keys import Ingredients
from tasks.nodes import Node
from tasks.resources import Devices
from tasks.stages import Stage
from tasks.store import Store
from tasks.threads import Threads

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0, 1]
TWO = Devices(cores=[CORES[:1], CORES[-1:]])


class Run:
    """Nodes whose stage is `jobs.work`, each on a thread of its own."""

    def __init__(self, folder):
        self.place = folder / "place"
        self.place.mkdir()
        self.held, self.cancelled, self.folder = [], False, folder
        self.children = Children(folder / "logs", self.accelerator, lambda: self.cancelled, devices=TWO)
        self.execution = Execution(Store(folder / "artifacts"), self.children, lambda *_: None, lambda *_: None)
        self.threads = Threads()

    @contextlib.contextmanager
    def accelerator(self):
        self.held.append("held")
        yield
        self.held.append("free")

    def start(self, number, do="meet", *, expected=2, session=None):
        settings = {"do": do, "number": number, "place": str(self.place), "expected": expected}
        node = Node("work", settings, session=session, benchmark=str(number))
        made_of = Ingredients("work", node.settings, {}, {})
        self.threads.start(node.id, lambda: execute(node, made_of, {}, self.execution, refresh=False))

    def ends(self, number):
        """What the next so many that end gave or raised, by number."""
        ended = [self.threads.ended(60) for _ in range(number)]
        return {one.name.removeprefix("work/"): one.error or (one.result.path / "out.txt").read_text() for one in ended}

    def wait_for(self, number):
        while len(list(self.place.iterdir())) < number:
            time.sleep(0.02)


@pytest.fixture
def run(tmp_path, monkeypatch):
    for one in (module, resources):
        monkeypatch.setattr(one, "STAGES", Kind("stage", "tests.unit.tasks.jobs", Stage))
    run = Run(tmp_path)
    with run.threads:
        yield run
        run.children.kill()


def test_two_at_once_have_cores_of_their_own_and_hold_the_accelerator_once(run):
    run.start(1)
    run.start(2)
    ended = run.ends(2)
    cores = {number: text.split(" ", 1)[1] for number, text in ended.items()}
    assert sorted(cores) == ["1", "2"]
    if hasattr(os, "sched_getaffinity") and len(CORES) > 1:
        assert {cores["1"].rsplit(" ", 1)[0], cores["2"].rsplit(" ", 1)[0]} == {f"[{CORES[0]}]", f"[{CORES[-1]}]"}
    assert run.held == ["held", "free"]
    assert {path.name for path in (run.folder / "logs").iterdir()} == {"work-1.log", "work-2.log"}


def test_a_session_keeps_its_process_beside_another_and_gives_it_up_where_devices_lack(run):
    run.start(1, session="s")
    run.start(2)
    first = run.ends(2)["1"]
    # Its thread has done other work since; the process is the same, as the thread lives.
    run.start(3, expected=1, session="s")
    again = run.ends(1)["3"]
    assert first.split()[0] == again.split()[0] and run.held == ["held"]
    run.start(4, expected=5)
    run.start(5, expected=5)
    run.wait_for(5)
    assert len(run.ends(2)) == 2 and run.held in (["held"] * 1 + ["free"], ["held", "free", "held", "free"])
    assert run.children._living == {}


def test_a_session_whose_process_died_while_it_waited_has_a_new_one(run):
    run.start(1, expected=1, session="s")
    first = run.ends(1)["1"].split()[0]
    signal_group(int(first), 9)
    run.children._living["s"].child._process.wait(10)
    run.start(2, expected=1, session="s")
    again = run.ends(1)["2"].split()[0]
    assert again != first and run.held == ["held", "free", "held"]


def test_a_node_without_a_process_leaves_that_of_its_session_to_the_node_at_work_in_it(run):
    run.start(1, session="s")
    run.wait_for(1)
    run.children._wait = refuse
    run.start(2, session="s")
    assert isinstance(run.ends(1)["2"], Cancelled)
    (run.place / "go").touch()
    assert run.ends(1)["1"].endswith(" 1")


def refuse():
    raise Cancelled("the run was cancelled while it waited for a device")


def test_one_that_fails_leaves_the_others_at_work(run):
    run.start(1)
    run.wait_for(1)
    run.start(2, "die")
    assert isinstance(run.ends(1)["2"], StageFailed)
    run.start(3)
    assert run.ends(2).keys() == {"1", "3"} and run.held == ["held", "free"]


def test_one_more_than_there_are_devices_waits_for_one(run):
    for number in (1, 2):
        run.start(number, expected=3)
    run.wait_for(2)
    run.start(3, expected=3)
    # A process is known when it begins, and at work a moment later.
    assert run.threads.ended(1) is None and run.children._living.keys() == {"work/1", "work/2"}
    assert not (run.place / "3").exists()
    (run.place / "go").touch()
    ended = run.ends(3)
    assert len({text.split()[0] for text in ended.values()}) == 3 and run.held[-1] == "free"


@pytest.mark.parametrize("how", ["cancel", "kill"])
def test_the_end_of_a_run_ends_all_and_none_begins(run, how):
    run.start(1, expected=9)
    run.start(2, expected=9)
    run.wait_for(2)
    pids = [int(path.read_text()) for path in run.place.iterdir()]
    if how == "cancel":
        run.cancelled = True
        assert all(isinstance(error, Cancelled) for error in run.ends(2).values())
    run.children.kill()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert run.held == ["held", "free"]
    run.start(3, expected=1)
    assert isinstance(run.ends(1 if how == "cancel" else 3)["3"], Cancelled)


def test_a_run_that_waits_for_another_gives_up_what_is_idle_and_no_more(run):
    run.start(1, session="s", expected=1)
    run.ends(1)
    run.start(2, expected=3)
    run.wait_for(2)
    run.children.close()
    assert list(run.children._living) == ["work/2"] and run.held == ["held"]
    signal_group(int((run.place / "2").read_text()), 9)
    assert isinstance(run.ends(1)["2"], StageFailed) and run.held == ["held", "free"]
