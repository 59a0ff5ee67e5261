"""The store: an artifact is complete or absent, and an altered one is never used."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnf.model.digests import model_digest
from tasks import store as tasks_store
from tasks.keys import ROOT, Ingredients
from tasks.store import Store, damage

MADE_OF = Ingredients("score", {"limit": 3}, {"completions": "abc"}, {"tasks.stages.score": "def"})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "artifacts")


def make(store, text="content", extra="log"):
    work = store.work_folder("score", MADE_OF.key())
    (work / "scores.jsonl").write_text(text)
    (work / "extra.log").write_text(extra)
    return store.commit(MADE_OF, work, content=("*.jsonl",), fingerprint=None, about={"seconds": 1.0})


def test_an_artifact_is_found_by_its_key_and_says_what_it_is_made_of(store):
    assert store.find("score", MADE_OF.key()) is None
    artifact = make(store)
    assert store.find("score", MADE_OF.key()) == artifact
    assert artifact.manifest["ingredients"] == MADE_OF.as_json()
    assert set(artifact.manifest["files"]) == {"scores.jsonl", "extra.log"}
    assert artifact.manifest["files"]["scores.jsonl"]["size"] == len("content")
    assert not (artifact.path.parent / f"{MADE_OF.key()}.work").exists()


def test_only_content_files_make_the_fingerprint(store):
    first = make(store, extra="one")
    assert make(store, extra="two").fingerprint == first.fingerprint
    assert make(store, text="other").fingerprint != first.fingerprint


def test_a_forced_run_leaves_the_folder_that_earlier_runs_name(store):
    first = make(store, text="one")
    second = make(store, text="two")
    assert first.path.exists() and second.path.exists()
    assert store.find("score", MADE_OF.key()) == second


@pytest.mark.parametrize("alter", ["truncate", "delete", "manifest", "manifest cut", "manifest emptied"])
def test_an_altered_artifact_is_not_used_and_the_reason_names_the_file(store, alter):
    artifact = make(store)
    name = "manifest.json" if alter.startswith("manifest") else "scores.jsonl"
    texts = {"truncate": "c", "manifest cut": '{"files": ', "manifest emptied": "{}"}
    if alter in texts:
        (artifact.path / name).write_text(texts[alter])
    else:
        (artifact.path / name).unlink()
    assert store.find("score", MADE_OF.key()) is None
    assert name in store.problem("score", MADE_OF.key())
    assert make(store).path == artifact.path
    assert damage(artifact) is None


@pytest.mark.parametrize(
    "odd",
    [
        {"files": []},
        {"files": {"scores.jsonl": 7}},
        {"files": {"scores.jsonl": {"size": "7", "sha256": "a"}}},
        {"files": {"scores.jsonl": {"size": 7}}},
        {"fingerprint": 5},
        {"ingredients": []},
        {"model_path": 5},
        {"model_folder": ["x"], "is_linked": True},
    ],
)
def test_a_manifest_of_odd_types_makes_a_miss(store, odd):
    artifact = make(store)
    file = artifact.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | odd))
    assert store.find("score", MADE_OF.key()) is None and store.same_but_code(MADE_OF) is None
    assert f"{file} is no manifest" in store.problem("score", MADE_OF.key())


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"[" * 100_000])
def test_a_manifest_that_a_power_cut_left_makes_a_miss(store, content):
    artifact = make(store)
    (artifact.path / "manifest.json").write_bytes(content)
    assert store.find("score", MADE_OF.key()) is None and "manifest.json" in store.problem("score", MADE_OF.key())
    again = make(store)
    assert store.find("score", MADE_OF.key()) == again


def test_files_are_on_the_disk_before_the_manifest_and_that_before_its_folder_has_its_name(store, monkeypatch):
    """A power cut finds an artifact that is whole, or none."""
    seen = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def synced(descriptor):
        seen.append(("synced", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def named(how):
        def call(source, target):
            seen.append(("named", Path(target).name))
            how(source, target)

        return call

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named(replace))
    monkeypatch.setattr(os, "rename", named(rename))
    artifact = make(store)
    what = [(verb, Path(name).name.split(".")[0]) for verb, name in seen]
    folder, key = artifact.path.name.split(".")[0], MADE_OF.key().split(".")[0]
    assert set(what[:2]) == {("synced", "scores"), ("synced", "extra")}
    assert what[2:] == [
        *(("synced", "manifest"), ("named", "manifest"), ("named", folder)),
        *(("synced", key), ("named", key)),
    ]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize(
    "moment", ["a file is hashed", "the manifest is written", "the folder is renamed", "the pointer is set"]
)
def test_a_disk_that_fails_while_an_artifact_is_completed_loses_nothing(store, monkeypatch, moment, number):
    calls = []

    def failing(module, name, matters):
        does = getattr(module, name)

        def call(*args, **options):
            if matters(*args):
                calls.append(args)
                raise OSError(number, os.strerror(number))
            return does(*args, **options)

        monkeypatch.setattr(module, name, call)

    if moment == "a file is hashed":
        failing(tasks_store, "file_sha256", lambda path: path.name == "scores.jsonl")
    elif moment == "the folder is renamed":
        failing(os, "rename", lambda *_: True)
    else:
        failing(tasks_store, "write_json", lambda path, *_: (path.name == "manifest.json") == ("manifest" in moment))
    with pytest.raises(OSError, match=os.strerror(number)):
        make(store)
    monkeypatch.undo()
    assert len(calls) == 1
    found = store.find("score", MADE_OF.key())
    assert found is None or damage(found, hashes=True) is None
    if found is None:
        assert (store.work_folder("score", MADE_OF.key()) / "scores.jsonl").read_text() == "content", "the work is kept"
    assert damage(make(store), hashes=True) is None


def test_a_stage_without_content_is_an_error(store):
    work = store.work_folder("score", MADE_OF.key())
    (work / "other.txt").write_text("x")
    with pytest.raises(ValueError, match=r"must write files matching \['\*\.jsonl'\]"):
        store.commit(MADE_OF, work, content=("*.jsonl",), fingerprint=None, about={})


def test_a_model_folder_outside_that_is_gone_makes_a_miss(store, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    work = store.work_folder("score", MADE_OF.key())
    (work / "model.json").write_text(json.dumps({"path": str(model)}))
    artifact = store.commit(MADE_OF, work, content=("model.json",), fingerprint="f" * 64, about={"model_path": str(model)})
    assert artifact.fingerprint == "f" * 32 and store.find("score", MADE_OF.key()) == artifact
    model.rmdir()
    assert store.find("score", MADE_OF.key()) is None


def test_the_lock_of_a_killed_owner_is_free(store, tmp_path):
    program = (
        "import time; from pathlib import Path; from tasks.store import Store\n"
        f"with Store(Path({str(store.root)!r})).lock('score', 'k'):\n    print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert owner.stdout.readline() == "held\n"
    owner.kill()
    owner.wait()
    started = time.monotonic()
    with store.lock("score", "k"):
        assert time.monotonic() - started < 5


def test_verify_notices_what_sizes_do_not(store):
    artifact = make(store, text="content")
    (artifact.path / "scores.jsonl").write_text("CONTENT")
    assert store.find("score", MADE_OF.key()) == artifact
    strict = Store(store.root, verify=True)
    assert strict.find("score", MADE_OF.key()) is None
    assert "scores.jsonl was altered" in strict.problem("score", MADE_OF.key())


def test_verify_reads_a_model_folder_again_although_its_time_is_unchanged(store, tiny_model_dir, tmp_path):
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    made_of = dataclasses.replace(MADE_OF, stage="resolve")
    about = {"model_path": str(model)}
    work = store.work_folder("resolve", made_of.key())
    (work / "model.json").write_text("{}")
    store.commit(made_of, work, content=("model.json",), fingerprint=model_digest(model), about=about)
    weights = model / "model.safetensors"
    status, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.find("resolve", made_of.key()) is not None
    assert "was altered" in str(Store(store.root, verify=True).problem("resolve", made_of.key()))


def test_an_artifact_that_differs_in_code_alone_can_be_found(store):
    artifact = make(store)
    edited = dataclasses.replace(MADE_OF, code={"tasks.stages.score": "edited", "new.module": "x"})
    assert store.find("score", edited.key()) is None
    assert store.same_but_code(edited) == artifact
    assert store.same_but_code(dataclasses.replace(edited, settings={"limit": 4})) is None
    assert store.same_but_code(dataclasses.replace(edited, inputs={"completions": "other"})) is None
    (artifact.path / "scores.jsonl").unlink()
    assert store.same_but_code(edited) is None


def test_waiting_for_a_lock_can_be_broken_off(store):
    class Enough(Exception):
        pass

    def stop():
        raise Enough

    with store.lock("score", "k"), pytest.raises(Enough), Store(store.root).lock("score", "k", while_waiting=stop):
        raise AssertionError("two owners of one lock")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["manifest begun", "manifest written", "renamed"])
def test_a_kill_while_an_artifact_is_completed_loses_nothing(store, monkeypatch, moment):
    """Between the manifest and the rename, and between the rename and the pointer."""
    with monkeypatch.context() as patch:

        def die(*_):
            raise Killed

        if moment == "renamed":
            patch.setattr(Store, "_point", die)
        elif moment == "manifest written":
            patch.setattr(os, "rename", die)
        else:
            patch.setattr(os, "replace", die)
        with pytest.raises(Killed):
            make(store)
    if moment == "renamed":
        found = store.find("score", MADE_OF.key())
        assert found is not None and (found.path / "scores.jsonl").read_text() == "content"
        assert store.problem("score", MADE_OF.key()) is None
    else:
        assert store.find("score", MADE_OF.key()) is None
        artifact = make(store)
        assert set(artifact.manifest["files"]) == {"scores.jsonl", "extra.log"}
        assert store.find("score", MADE_OF.key()) == artifact and damage(artifact, hashes=True) is None


ODD = (
    *("", "{", "[]", '{"other": 1}', "\x00" * 64),
    *(json.dumps({"fingerprint": odd}) for odd in ("a/../../b", "a" * 300, "", 5)),
)


@pytest.mark.parametrize("text", ODD)
def test_a_pointer_that_a_power_cut_left_unreadable_is_as_good_as_none(store, text):
    artifact = make(store)
    (artifact.path.parent / f"{MADE_OF.key()}.json").write_text(text)
    assert store.find("score", MADE_OF.key()) == artifact
    shutil.rmtree(artifact.path)
    assert store.find("score", MADE_OF.key()) is None
    assert store.find("score", make(store).key) == artifact


def test_what_a_library_wrote_for_its_owner_alone_others_may_read(tmp_path):
    store, made_of = Store(tmp_path / "artifacts"), Ingredients("label", {}, {}, {})
    work = store.work_folder("label", made_of.key())
    (work / "inside").mkdir()
    for name in ("a.jsonl", "inside/b.bin"):
        (work / name).write_text("x")
        (work / name).chmod(0o600)
    (work / "new.txt").write_text("x")
    artifact = store.commit(made_of, work, content=("*",), fingerprint=None, about={})
    assert len({path.stat().st_mode for path in artifact.path.rglob("*") if path.is_file()}) == 1


def test_a_data_file_changed_in_place_with_size_and_time_kept_is_another(store, tmp_path):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "a.jsonl"
    file.write_text("one")
    status = file.stat()
    before = [store.outside_fingerprint(path) for path in (file, tmp_path / "data")]
    file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = [store.outside_fingerprint(path) for path in (file, tmp_path / "data")]
    assert before[0] != after[0] and before[1] != after[1]
