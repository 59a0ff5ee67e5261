"""The store: an artifact is complete or absent, and an altered one is never used."""

import json
import subprocess
import sys
import time

import pytest

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


@pytest.mark.parametrize("alter", ["truncate", "delete", "manifest"])
def test_an_altered_artifact_is_not_used_and_the_reason_names_the_file(store, alter):
    artifact = make(store)
    name = "manifest.json" if alter == "manifest" else "scores.jsonl"
    if alter == "truncate":
        (artifact.path / name).write_text("c")
    else:
        (artifact.path / name).unlink()
    assert store.find("score", MADE_OF.key()) is None
    assert name in store.problem("score", MADE_OF.key())
    assert make(store).path == artifact.path
    assert damage(artifact) is None


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
