"""One node: computed once, its failures told by what ran out, and the accelerator held for as long as its process lives."""

import contextlib
import errno
import json
import os
import shutil
from collections import namedtuple
from unittest.mock import Mock

import pytest

from bnf.failures import Cause
from bnf.plugins import Kind
from tasks import execute as module
from tasks import resources
from tasks.child import Cancelled, StageFailed
from tasks.children import Children
from tasks.execute import Execution, execute
from tasks.keys import Ingredients
from tasks.nodes import Node
from tasks.stages import Stage
from tasks.store import Store

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Execute a node whose stage is `jobs.work`; its parts are attributes."""
    for one in (module, resources):
        monkeypatch.setattr(one, "STAGES", Kind("stage", "tests.unit.tasks.jobs", Stage))
    held = []

    @contextlib.contextmanager
    def accelerator():
        held.append("held")
        yield
        held.append("free")

    children = Children(tmp_path / "logs", accelerator, lambda: run.cancelled)
    execution = Execution(Store(tmp_path / "artifacts"), children, lambda *_: None, lambda *_: None)

    def run(what, *, refresh=False, is_retry=False, session=None, number=0):
        node = Node("work", {"do": what, "number": number}, session=session)
        return execute(node, Ingredients("work", node.settings, {}, {}), {}, execution, refresh=refresh, is_retry=is_retry)

    run.cancelled, run.held, run.execution = False, held, execution
    yield run
    children.kill()


def test_what_is_there_is_not_made_again(run):
    first = run("write")
    assert run("write") == first and run.held == ["held", "free"]
    manifest = json.loads((first.path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"out.txt"} and manifest["seconds"] > 0 and "python" in manifest["versions"]
    assert manifest["memory"]["host"] > 1 << 20 and "device" not in manifest["memory"]


def test_an_artifact_says_where_its_engine_computed(run):
    placed = {"tensor_parallel_size": 2}
    manifests = []
    for number, unkeyed in enumerate(({"engine_placement": placed}, {})):
        node = Node("work", {"do": "write", "number": number}, unkeyed=unkeyed)
        made = execute(node, Ingredients("work", node.settings, {}, {}), {}, run.execution, refresh=False)
        manifests.append(json.loads((made.path / "manifest.json").read_text()))
    assert manifests[0]["engine_placement"] == placed and "engine_placement" not in manifests[1]


def test_a_session_holds_the_accelerator_until_its_process_ends(run):
    run("write", session="s", number=1)
    run("write", session="s", number=2)
    assert run.held == ["held"]
    run("write", session="other", number=3)
    assert run.held == ["held", "free", "held"]
    run.execution.children.close()
    assert run.held == ["held", "free"] * 2


@pytest.mark.parametrize(
    ("what", "cause", "message"),
    [
        ("fill", Cause.DISK, r"the disk of .* must have 256 MiB free for work, got \d+ MiB; free some(.|\n)*No space left"),
        ("swell", Cause.MEMORY, r"(.|\n)*work ran out of memory; lower train\.max_tokens_per_row"),
        ("die", Cause.MEMORY, r"exit -9(.|\n)*work ran out of memory; lower train\.max_tokens_per_row"),
        ("refuse", Cause.USER, "limit must be positive"),
        ("lose connection", Cause.PASSING, "the peer is gone"),
        ("raise", Cause.OTHER, "RuntimeError: something broke"),
    ],
)
def test_a_failure_has_a_cause_and_leaves_the_store_as_it_was(run, what, cause, message):
    with pytest.raises(StageFailed, match=f"^{message}") as failure:
        run(what)
    assert failure.value.cause is cause
    assert run.held == ["held", "free"]
    store = run.execution.store
    assert not list(store.root.glob("*/*.json")) and [path.suffix for path in store.root.glob("*/*/")] == [".work"]


def test_a_refresh_begins_anew_and_its_retry_goes_on(run):
    with pytest.raises(StageFailed):
        run("lose connection")
    work = next(run.execution.store.root.glob("work/*.work"))
    for is_retry in (True, False):
        (work / "partial").write_text("")
        with pytest.raises(StageFailed):
            run("lose connection", refresh=True, is_retry=is_retry)
        assert (work / "partial").exists() == is_retry


def test_too_little_space_is_told_before_the_stage_begins(run, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 100 << 20))
    with pytest.raises(
        StageFailed, match=r"must have 256 MiB free for work, got 100 MiB; free some [^\n]* or move BNF_HOME[^\n]*$"
    ):
        run("write")
    assert run.held == []


def test_cancelling_ends_the_process_and_frees_the_accelerator(run):
    run.cancelled = True
    with pytest.raises(Cancelled):
        run("hang")
    assert run.held == ["held", "free"]


def test_a_run_that_waits_for_another_can_be_cancelled(run):
    run.cancelled = True
    node = Node("work", {"do": "write", "number": 0})
    key = Ingredients("work", node.settings, {}, {}).key()
    with Store(run.execution.store.root).lock("work", key), pytest.raises(Cancelled, match="while it waited"):
        run("write")


def test_while_it_waits_for_another_a_run_holds_no_accelerator(run):
    """Else two runs wait for each other for ever: one for the key, the other for the accelerator."""
    run("write", session="s", number=1)
    assert run.held == ["held"]
    node = Node("work", {"do": "write", "number": 2})
    made_of = Ingredients("work", node.settings, {}, {})
    store = Store(run.execution.store.root)
    with contextlib.ExitStack() as other:
        other.enter_context(store.lock("work", made_of.key()))

        def accelerator_is_free():
            if run.held == ["held", "free"]:
                other.close()
            return False

        run.execution.children.cancelled = accelerator_is_free
        assert run("write", session="s", number=2).path.exists()


@pytest.mark.parametrize(
    ("node", "held"),
    [
        (Node("train", {}), True),
        (Node("prepare", {}), False),
        (Node("generate", {"engine": {"name": "vllm"}}), True),
        (Node("judge", {"engine": {"name": "openai"}}), False),
        (Node("label", {"engine": {"name": "reward_model"}}), True),
        (Node("label", {}), False),
    ],
)
def test_an_endpoint_needs_no_accelerator_here(node, held):
    assert resources.needs_accelerator(node) is held


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"the disk of .* must have 256 MiB free for work, got \d+ MiB; free some"),
        (errno.EDQUOT, r"the disk of .* must have 256 MiB free for work, got \d+ MiB; free some"),
        (errno.EROFS, r"the disk of .* must take the files of work, got a read-only one; mount it again"),
    ],
)
def test_a_disk_that_fails_when_a_stage_is_done_is_told_and_the_next_try_goes_on(run, monkeypatch, number, said):
    """As it may while the stage's files are hashed, or its manifest written: what the stage has made stays."""
    commit = Store.commit

    def failing(self, *args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Store, "commit", failing)
    monkeypatch.setattr(os, "access", lambda path, mode: number != errno.EROFS)
    with pytest.raises(StageFailed, match=said) as failure:
        run("write")
    assert failure.value.cause is Cause.DISK and run.held == ["held", "free"]
    (work,) = run.execution.store.root.glob("work/*.work")
    assert (work / "out.txt").exists()
    monkeypatch.setattr(Store, "commit", commit)
    assert (run("write").path / "out.txt").exists()


def test_a_place_elsewhere_that_is_read_only_is_not_taken_for_the_home(run, monkeypatch):
    """As a library's cache in a container whose root can't be written: the error names its file."""
    elsewhere = OSError(errno.EROFS, os.strerror(errno.EROFS), "/root/.cache/kernels")
    monkeypatch.setattr(Store, "commit", Mock(side_effect=elsewhere))
    with pytest.raises(OSError, match=r"^\[Errno 30\] Read-only file system: '/root/\.cache/kernels'$"):
        run("write")


def test_a_node_says_that_it_opens_its_model_before_it_counts(run, monkeypatch):
    said = []
    run.execution.on_progress = lambda node, *progress: said.append(progress)
    monkeypatch.setattr(module, "_opening", lambda node, folders, paths: "opening SmolLM2-135M-Instruct")
    run("write")
    assert said == [(0, 0, "opening SmolLM2-135M-Instruct"), (1, 2, "half"), (2, 2, "whole")]


def test_what_is_opened_has_the_name_that_people_gave_it(tmp_path, monkeypatch):
    def folder(name, settings):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"ingredients": {"settings": settings}}))
        return tmp_path / name

    monkeypatch.setattr(module, "read_manifest", lambda folder: json.loads((folder / "manifest.json").read_text()))
    hub = folder("resolve", {"model_name_or_path": "owner/Judge-7B", "revision": "main"})
    trained = folder("train", {"objective": "bnf"})
    folders = {"model": trained, "judge": hub}
    # Of a hub's model the folder is a commit.
    paths = {"model": trained / "policy", "judge": tmp_path / "snapshots" / "0a1b2c"}
    local, endpoint = {"engine": {"name": "transformers"}}, {"engine": {"name": "openai"}}
    assert module._opening(Node("judge", local), folders, paths) == "opening Judge-7B"
    assert module._opening(Node("generate", local), {"model": trained}, {"model": trained / "policy"}) == "opening policy"
    assert module._opening(Node("judge", endpoint), folders, paths) is None
    assert module._opening(Node("score", {}), {}, {}) is None
    # It reads the tokenizer alone.
    assert module._opening(Node("prepare", {}), {"model": hub}, {"model": tmp_path}) is None
