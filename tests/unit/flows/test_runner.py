"""How a run's nodes begin and end, with nodes that do nothing: one after another, at once, failing, stopped."""

import errno
import os
import threading
import time
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import pytest

from bnf.parallel.cluster import Cluster, Machine
from flows import runner as module
from flows.dag import resources
from flows.dag.ray_checks import RayCheck
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.runner import Listener, Runner
from flows.runs import record
from flows.runs.record import Run, start_run
from tasks.child import Cancelled
from tasks.keys import Ingredients
from tasks.nodes import Node
from tasks.remote import RemoteError
from tasks.store import Artifact

ENDPOINT = {"engine": {"name": "openai", "base_url": "u", "model": "m"}}
BASE = Node("resolve", {}, role="base")
DATA = Node("prepare", {}, {"model": BASE.id})
REFERENCE = Node("reference", {}, {"model": BASE.id, "data": DATA.id})
ANSWERS = Node(
    "generate", {"engine": {"name": "vllm"}}, {"model": BASE.id}, role="base", benchmark="x", session="generate/base"
)
JUDGED = Node("judge", ENDPOINT, {"answers_base": ANSWERS.id}, role="judge", benchmark="x", session="judge/judge")
SCORED = Node("score", {}, {"completions": ANSWERS.id}, role="base", benchmark="x")
NODES = [BASE, DATA, REFERENCE, ANSWERS, JUDGED, SCORED]


class Store:
    """Has the artifacts of the nodes that `cached` names."""

    def __init__(self, root, cached=()):
        self.root, self.cached = root / "artifacts", cached
        self.shared, self.is_gone = [], False

    def find(self, stage, key):
        return self.artifact(key) if key in self.cached else None

    def artifact(self, key):
        return Artifact(key.split("/")[0], key, "f", self.root / key)

    def problem(self, stage, key):
        return None

    def open_part(self, artifact):
        return None

    def publish(self, artifact, replace):
        return artifact

    def share(self, artifact):
        self.shared.append((artifact.stage, threading.current_thread() is threading.main_thread()))
        if self.is_gone:
            raise OSError("BNF_STORE must be reachable")
        return artifact


class Keyed(Ingredients):
    def key(self):
        return self.settings["id"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run nodes; what each does is in `works`, and what was told is in `said`."""
    works, said, lock = {}, [], threading.Lock()

    def tell(what):
        with lock:
            said.append(what)

    def run_node(node, made_of, inputs, execution, **how):
        tell(f"{node.label} begins")
        works.get(node.id, lambda: None)()
        execution.executed[node.id] = 1.0
        return Artifact(node.stage, node.id, "f", tmp_path / "artifacts" / node.id).as_json()

    monkeypatch.setattr(module, "run_node", run_node)
    monkeypatch.setattr(module, "ingredients", lambda node, inputs, store: Keyed(node.stage, {"id": node.id}, {}, {}))

    def go(nodes=NODES, cached=(), allowed=None, cancelled=lambda: False, pinned=(), is_gone=False, checks=(), **sections):
        recipe = make_recipe({"name": "r", "model_name_or_path": "m", **sections})
        ids = {node.id for node in nodes}
        selection = SimpleNamespace(
            refresh=(), keep=(), allowed=ids if allowed is None else allowed, refusal=lambda node: f"not {node.id}"
        )
        run.store = store = Store(tmp_path, cached)
        store.is_gone = is_gone
        given = {name: store.artifact(name) for name in pinned}
        plan = SimpleNamespace(
            nodes=nodes, recipe=recipe, store=store, pinned=given, selection=selection, forecasts={}, checks=checks
        )
        run.record = start_run(tmp_path, recipe, "x")
        listener = Listener(
            on_start=lambda node: run.shown.append((node.label, [working.task for working in run.record.record.at_work])),
            on_done=lambda node, cached, seconds: tell(f"{node.label} {'cached' if cached else 'done'}"),
            on_failed=lambda node: tell(f"{node.label} failed"),
            on_message=tell,
        )
        run.runner = runner = Runner(plan, run.record, listener, cancelled, {})
        monkeypatch.setattr(runner, "_check_training", lambda node, inputs, at_work: None)
        monkeypatch.setattr(runner, "_other_code", lambda node, artifact: None)
        monkeypatch.setattr(runner, "_check_engines", lambda node, artifact: None)
        runner.run()

    run = SimpleNamespace(go=go, works=works, said=said, shown=[], record=None)
    monkeypatch.setattr(module, "_LOOK_S", 0.02)
    return run


def both(*ids):
    """Work that goes on once all of these are at it."""
    barrier = threading.Barrier(len(ids), timeout=10)
    return {name: barrier.wait for name in ids}


def test_one_device_and_no_endpoint_is_the_order_of_the_plan(run):
    run.go([BASE, DATA, REFERENCE, ANSWERS, SCORED])
    names = ["resolve-base", "prepare", "reference", "generate-base-x", "score-base-x"]
    assert run.said == [f"{name} {what}" for name in names for what in ("begins", "done")]


def test_what_came_of_a_task_is_said_with_its_path_as_it_is_written_here(run, tmp_path, monkeypatch):
    (tmp_path / "artifacts" / DATA.id).mkdir(parents=True)
    monkeypatch.setattr(
        module, "load", lambda kind, name: SimpleNamespace(outcome=lambda folder: f"each row in {folder}/ledger.jsonl")
    )
    monkeypatch.chdir(tmp_path)
    run.go([BASE, DATA])
    assert f"    each row in artifacts/{DATA.id}/ledger.jsonl" in run.said


def test_a_task_is_shown_before_the_record_names_it(run):
    run.go([BASE, DATA])
    assert run.shown == [("resolve-base", []), ("prepare", [])], "who stops a run for its record finds the task in the message"


def test_an_endpoint_and_cores_compute_beside_the_device(run):
    run.works |= both(REFERENCE.id, JUDGED.id, SCORED.id) | both(DATA.id, ANSWERS.id)
    run.go(resources={"cpu_slots": 2})
    assert list(run.record.record.tasks) == [node.id for node in NODES], "whatever ends first"
    assert all(task.started <= task.ended for task in run.record.record.tasks.values())


def test_two_devices_compute_at_the_same_time(run, monkeypatch):
    monkeypatch.setattr(resources, "machine_devices", lambda wanted: resources.Devices(cores=[[0]] * wanted))
    run.works |= both(REFERENCE.id, ANSWERS.id)
    slow = threading.Event()
    run.works[ANSWERS.id], meet = lambda: (slow.wait(10), meet()), run.works[ANSWERS.id]
    run.works[DATA.id] = slow.set
    run.go([BASE, DATA, REFERENCE, ANSWERS, SCORED], resources={"devices": 2})


def test_what_is_cached_waits_for_no_device(run):
    begun = threading.Event()
    run.works |= {REFERENCE.id: lambda: begun.wait(10), JUDGED.id: begun.set}
    run.go(cached=[BASE.id, DATA.id, ANSWERS.id, SCORED.id])
    assert run.said.index("judge-x done") < run.said.index("reference done")


@pytest.mark.parametrize("sections", [{}, {"resources": {"cpu_slots": 2}}], ids=["alone", "together"])
def test_what_a_run_was_given_is_published_where_other_machines_read_it(run, sections):
    policy = Node("train", {}, {"model": BASE.id})
    reads = {"model": policy.id}
    answers = replace(ANSWERS, inputs=reads, unkeyed={"ray": "auto"})
    given = [BASE.id, policy.id]
    run.go([BASE, policy, answers], pinned=given, **sections)
    assert run.store.shared == [("train", False)], "the base model is read by no node that runs"
    assert run.said[:3] == ["resolve-base cached", "train cached", "generate-base-x begins"]
    assert list(run.record.record.tasks) == [BASE.id, policy.id, ANSWERS.id]
    for here in ({}, {"ray": "local"}):
        run.go([BASE, policy, replace(ANSWERS, inputs=reads, unkeyed=here)], pinned=given, **sections)
        assert run.store.shared == []
    with pytest.raises(OSError, match="BNF_STORE must be reachable"):
        run.go([BASE, policy, answers], pinned=given, is_gone=True, **sections)


def test_where_one_fails_those_at_work_end_and_no_other_begins(run):
    failed = threading.Event()

    def fail():
        failed.set()
        raise ValueError("answers must be there, got none; generate them")

    run.works |= both(DATA.id, ANSWERS.id)
    run.works |= {JUDGED.id: fail, REFERENCE.id: lambda: failed.wait(10)}
    with pytest.raises(ValueError, match="answers must be there"):
        run.go([*NODES, Node("train", {}, {"reference": REFERENCE.id})])
    assert "judge-x failed" in run.said and "reference done" in run.said and "train begins" not in run.said
    (message,) = [text for text in run.said if "the run ends when" in text]
    assert message.startswith("answers must be there") and "reference" in message.rsplit(":", 1)[1]
    assert [working.task for working in run.record.record.at_work] == ["judge-x"]


@pytest.mark.parametrize("last", [REFERENCE, JUDGED])
def test_of_several_failures_the_first_of_the_plan_is_raised_and_each_is_told(run, last):
    first = JUDGED if last is REFERENCE else REFERENCE

    def fail(node):
        def work():
            # With both at work already; the last one once the other's failure is shown.
            meet()
            while node is last and f"{first.label} failed" not in run.said:
                threading.Event().wait(0.01)
            raise ValueError(node.stage)

        return work

    meet = both(REFERENCE.id, JUDGED.id)[JUDGED.id]
    run.works |= both(DATA.id, ANSWERS.id)
    run.works |= {node.id: fail(node) for node in (JUDGED, REFERENCE)}
    with pytest.raises(ValueError, match=r"^reference$"):
        run.go([node for node in NODES if node is not SCORED])
    told = [text for text in run.said if "the run ends when" in text]
    assert len(told) == 1 and told[0].startswith(f"{first.stage}\n")
    assert run.said[-1] == ("judge-x: judge" if last is JUDGED else told[0]), "and none twice"


def test_a_task_ended_when_it_ended_and_not_when_the_run_noticed(run, monkeypatch):
    run.works |= both(REFERENCE.id, JUDGED.id)
    add = Run.add

    def slow(record, node, *args, **how):
        time.sleep(1.0 if node in (REFERENCE, JUDGED) else 0.0)
        add(record, node, *args, **how)

    monkeypatch.setattr(Run, "add", slow)
    run.go([BASE, DATA, REFERENCE, ANSWERS, JUDGED])
    ended = [datetime.fromisoformat(run.record.record.tasks[node.id].ended) for node in (REFERENCE, JUDGED)]
    assert abs((ended[0] - ended[1]).total_seconds()) < 0.7


def test_what_may_not_execute_is_refused_when_its_turn_comes(run):
    with pytest.raises(RecipeError, match="not prepare"):
        run.go(allowed={BASE.id})
    assert run.said == ["resolve-base begins", "resolve-base done"]


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_a_run_that_is_ended_waits_for_nodes_that_end_in_order(run, how, monkeypatch):
    asked, ended = threading.Event(), []

    def work():
        asked.set()
        while not run.stopped():
            threading.Event().wait(0.01)
        ended.append("in order")
        raise Cancelled("told")

    def cancelled():
        # Ctrl-C comes to the main thread alone.
        if how == "stop" and asked.is_set() and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return how == "cancel" and asked.is_set()

    def execution(store, children, **told):
        run.stopped = children.cancelled
        return SimpleNamespace(executed={})

    monkeypatch.setattr(module, "Execution", execution)
    run.works[BASE.id] = work
    with pytest.raises(Cancelled if how == "cancel" else KeyboardInterrupt):
        run.go(cancelled=cancelled)
    assert ended == ["in order"] and "prepare begins" not in run.said


def test_a_shared_store_that_is_gone_when_a_task_ends_loses_nothing_and_the_next_run_puts_it_there(run, monkeypatch):
    """It is not asked again: the artifact is in the home, and the same command puts it there."""
    published, gone = [], [RemoteError("BNF_STORE must be a store that answers, got s3://x (timed out)")]

    def publish(self, artifact, replace):
        if gone:
            raise gone.pop()
        published.append(artifact.stage)
        return artifact

    monkeypatch.setattr(Store, "publish", publish)
    with pytest.raises(RemoteError, match="BNF_STORE must be a store that answers"):
        run.go([BASE, DATA])
    assert run.said == ["resolve-base begins"] and not run.record.record.tasks
    run.go([BASE, DATA], cached=[BASE.id])
    assert published == ["resolve", "prepare"] and list(run.record.record.tasks) == [BASE.id, DATA.id]


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "free some"), (errno.EDQUOT, "free some"), (errno.EROFS, "let it be written")]
)
def test_a_disk_that_takes_no_record_ends_the_run_with_a_message_and_leaves_the_record_before(
    run, monkeypatch, tmp_path, number, remedy
):
    write = record.write_json

    def full(path, value, durable):
        if value["tasks"]:
            raise OSError(number, os.strerror(number))
        write(path, value, durable=durable)

    monkeypatch.setattr(record, "write_json", full)
    said = rf"the disk of {tmp_path}/runs/.* must take the run's record, got '{os.strerror(number)}'; {remedy}"
    with pytest.raises(OSError, match=said):
        run.go([BASE, DATA])
    with pytest.raises(OSError, match=said):
        run.record.end("failed", "full")
    found = record.find_run(tmp_path, run.record.id)
    assert [working.task for working in found.record.at_work] == ["resolve-base"] and not found.record.tasks
    assert found.state == "crashed", "nobody holds it any more"


def test_the_processes_of_a_run_know_the_cluster_that_it_began_on(run):
    found = Cluster((Machine(8, 16),), "10.0.0.4:6379")
    run.go(checks=[RayCheck("Ray auto", None, "1 node", cluster=found)])
    environment = run.runner.children.environment
    assert (environment["BNF_RAY_CLUSTER"], environment["BNF_RAY_GPUS"]) == ("10.0.0.4:6379", "8")
    run.go()
    assert "BNF_RAY_CLUSTER" not in run.runner.children.environment
