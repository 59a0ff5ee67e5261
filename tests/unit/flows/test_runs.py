"""The runs of a home: found where the home is now, whatever a power cut left of one."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flows.commands.showing import taken_run
from flows.dag.selection import evaluated_recipe
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.runs.garbage import collect, remove
from flows.runs.listing import list_runs
from flows.runs.record import COMPARABLE, all_runs, find_run, start_run
from flows.runs.sizes import run_sizes
from tasks.keys import Ingredients
from tasks.nodes import Node
from tasks.store import Artifact, Store
from tests import disks

NODE = Node("score", {"limit": 3})
MADE_OF = Ingredients("score", NODE.settings, {}, {})
TRAINED = {"name": "first", "model_name_or_path": "m", "data": {"source": "pairs", "path": "x.jsonl"}, "train": {}}


def make(home):
    store = Store(home / "artifacts")
    work = store.work_folder("score", MADE_OF.key())
    (work / "scores.jsonl").write_text("{}")
    return store.commit(MADE_OF, work, content=("*.jsonl",), fingerprint=None, about={})


def run_of(home, **changes):
    run = start_run(home, make_recipe({**TRAINED, **changes}), "x")
    run.add(NODE, make(home), cached=False, seconds=1.0)
    run.end("completed")
    return run


def test_a_home_can_be_moved(tmp_path):
    run_of(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    artifact = find_run(tmp_path / "new", "latest").artifacts["score"]
    assert (artifact.path / "scores.jsonl").exists() and artifact.path.is_relative_to(tmp_path / "new")
    assert (
        tmp_path / "new" / "runs" / find_run(tmp_path / "new", "latest").id / "artifacts" / "score" / "scores.jsonl"
    ).exists()


@pytest.mark.parametrize(
    "text", ["", "{", "\x00\x00", "{}", "[]", '{"run": "a", "tasks": 3}', '{"run": "r", "recipe": "x", "state": "completed"}']
)
def test_a_record_that_a_power_cut_left_unreadable_hides_no_other_run(tmp_path, text):
    first, second = run_of(tmp_path), run_of(tmp_path)
    (second.folder / "run.json").write_text(text)
    assert [run.id for run in all_runs(tmp_path)] == [first.id]
    (tmp_path / "gc.lock").touch()
    with pytest.raises(RecipeError, match=r"gc must know what every run names, got .*run.json, which can't be read"):
        collect(tmp_path, dry_run=True)
    for drop in (lambda: collect(tmp_path, dry_run=False), lambda: remove(tmp_path, [first], dry_run=False)):
        with pytest.raises(RecipeError, match=r"must know what every run names, got .*/run\.json, which can't be read"):
            drop()


@pytest.mark.parametrize("text", [None, "folder", b"train: {objective", b"\x00" * 40, b"\xff\xfe", b"- a", b"gone_since: 1"])
def test_a_recipe_that_cannot_be_read_hides_no_other_run(tmp_path, capsys, text):
    runs = [run_of(tmp_path, prepare={"dev_fraction": 0.1}) for _ in range(2)]
    node = Node("train", {})
    for number, run in enumerate(runs):
        run.record.started = f"2026-01-0{1 + number}T00:00:00+00:00"
        run.add(node, make(tmp_path), cached=False, seconds=1.0)
        run.record.tasks["train"] = replace(run.record.tasks["train"], artifact=replace(make(tmp_path), stage="train"))
        del run.record.tasks["score"]
        run.save()
    first, second = runs
    file = second.folder / "recipe.yaml"
    file.unlink()
    if text == "folder":  # as unreadable as a file of somebody else's
        for name in (file, second.folder / "summary.json"):
            name.mkdir()
    elif text is not None:
        file.write_bytes(text)
    assert [row["run"] for row in list_runs(all_runs(tmp_path))] == [second.id, first.id]
    assert taken_run(tmp_path, "latest", COMPARABLE).id == first.id
    assert f"passed over: {second.id} (completed, with a recipe.yaml that can't be read)" in capsys.readouterr().err
    shutil.rmtree(first.folder)
    with pytest.raises(RecipeError, match=rf"{second.id} \(completed, with a recipe.yaml that can't be read\), none of which"):
        find_run(tmp_path, "latest", COMPARABLE)


def test_what_a_run_writes_outlasts_a_power_cut(tmp_path, monkeypatch):
    """What has no fsync before it gets its name may be empty after one."""
    synced, replaced, fsync, rename = set(), [], os.fsync, os.replace

    def follow(old, new):
        replaced.append((Path(new).name, os.stat(old).st_ino in synced))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), fsync(handle)))
    monkeypatch.setattr(os, "replace", follow)
    run = start_run(tmp_path, make_recipe(TRAINED), "x")
    run.begin(NODE, "key")
    report = tmp_path / "report"
    report.mkdir()
    for name in ("summary.json", "report.html"):
        (report / name).write_text("{}")
    run.add(Node("report", {}), Artifact("report", "key", "f", report), cached=False, seconds=1.0)
    run.end("completed")
    assert {name for name, _ in replaced} == {"recipe.yaml", "run.json", "summary.json", "report.html"}
    assert all(durable for _, durable in replaced)
    assert {path.name for path in run.folder.iterdir()} == {"alive.lock", "artifacts", *(name for name, _ in replaced)}


def test_a_run_has_its_pages_of_items_beside_the_report(tmp_path):
    run = start_run(tmp_path, make_recipe(TRAINED), "x")
    for key in ("old", "new"):
        report = tmp_path / "artifacts" / "report" / key
        (report / "items").mkdir(parents=True)
        for name in ("summary.json", "report.html", "items/gsm8k.html"):
            (report / name).write_text(key)
        run.add(Node("report", {}), Artifact("report", key, "f", report), cached=False, seconds=1.0)
        assert (run.folder / "items" / "gsm8k.html").read_text() == (run.folder / "report.html").read_text() == key


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_runs_are_listed_though_a_manifest_cannot_be_read(tmp_path, text):
    run = run_of(tmp_path)
    manifest = run.artifacts["score"].path / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    assert run_sizes(all_runs(tmp_path))[run.id].artifacts == 0


def test_what_a_run_made_last_stays_though_it_died_before_it_could_name_it(tmp_path):
    run = start_run(tmp_path, make_recipe(TRAINED), "x")
    run.begin(NODE, MADE_OF.key())
    artifact = make(tmp_path)
    assert collect(tmp_path, dry_run=False) == [] and artifact.path.exists()
    shutil.rmtree(run.folder)
    assert [entry["folder"] for entry in collect(tmp_path, dry_run=False)] == [artifact.path.name]


def test_how_an_evaluated_model_was_made_is_its_own_runs_business(tmp_path):
    made = run_of(tmp_path, train={"objective": "dpo"}, seed=7)
    asked = make_recipe({"name": "other", "model_name_or_path": "elsewhere", "evaluation": {"benchmarks": ["gsm8k"]}})
    recipe = evaluated_recipe(tmp_path, asked, made.id)
    assert (recipe.name, recipe.model_name_or_path, recipe.seed, recipe.train["objective"]) == ("other", "m", 7, "dpo")
    assert list(recipe.evaluation.benchmarks) == ["gsm8k"]
    assert evaluated_recipe(tmp_path, asked, None) == asked
    with pytest.raises(RecipeError, match="RUN must be a run of"):
        evaluated_recipe(tmp_path, asked, "none")


def test_a_run_that_ended_early_says_in_which_task_and_why(tmp_path):
    run = start_run(tmp_path, make_recipe(TRAINED), "x")
    run.begin(NODE, MADE_OF.key())
    assert run.where == "running"
    run.end("failed", "limit must be positive, got -1; leave it out")
    assert find_run(tmp_path, "latest").where == "failed in score: limit must be positive, got -1; leave it out"
    assert run_of(tmp_path).where == "completed"
    stopped = start_run(tmp_path, make_recipe(TRAINED), "x")
    stopped.end("stopped")
    assert stopped.where == "stopped"


def test_tasks_at_once_are_recorded_in_the_order_of_the_plan(tmp_path):
    nodes = [Node("score", {}, role="base", benchmark=name) for name in "abcd"]
    run = start_run(tmp_path, make_recipe(TRAINED), "x")
    run.plan(nodes)
    for node in reversed(nodes):
        run.begin(node, f"key-{node.benchmark}")
    artifact = make(tmp_path)
    for node in (nodes[2], nodes[0]):
        run.add(node, artifact, cached=False, seconds=1.0, started="2026-01-01T00:00:00.000+00:00", ended="later")
    written = json.loads((run.folder / "run.json").read_text())
    assert list(written["tasks"]) == ["score/base/a", "score/base/c"]
    assert (
        written["tasks"]["score/base/a"]["started"].startswith("2026") and written["tasks"]["score/base/a"]["ended"] == "later"
    )
    assert written["working"]["task"] == "score-base-b" and [one["key"] for one in written["also_working"]] == ["key-d"]
    run.end("failed", "why")
    found = find_run(tmp_path, "latest")
    assert found.where == "failed in score-base-b, score-base-d: why" and found.record.to_json() == {
        **written,
        **{name: found.record.to_json()[name] for name in ("state", "ended", "why")},
    }
    # Partial work of each stays.
    for key in ("key-b", "key-d", "key-x"):
        (tmp_path / "artifacts" / "score" / f"{key}.work").mkdir()
    assert [entry["folder"] for entry in collect(tmp_path, dry_run=False)] == ["key-x.work"]


def test_a_record_says_what_a_run_has_come_to_and_no_more(tmp_path):
    """Its keys and their order are what people and their tools read."""

    def keys():
        return list(json.loads((run.folder / "run.json").read_text()))

    run = start_run(tmp_path, make_recipe(TRAINED), "x", {"only": ["score"]})
    begun = ["run", "recipe", "state", "started", "flow_run_id", "overrides", "tasks"]
    assert keys() == begun
    run.begin(NODE, MADE_OF.key())
    assert keys() == [*begun, "working"]
    run.add(NODE, make(tmp_path), cached=True, seconds=0.5, other_code=["tasks.stages.score"])
    run.end("failed", "why")
    assert keys() == [*begun, "working", "ended", "why"]
    written = json.loads((run.folder / "run.json").read_text())
    [task] = written["tasks"].values()
    assert list(task) == ["stage", "key", "fingerprint", "path", "cached", "seconds", "other_code"]
    assert written["working"] is None and find_run(tmp_path, "latest").record.to_json() == written


def test_a_run_that_a_full_disk_lets_not_begin_says_what_to_do(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    said = rf"the disk of {home} must take a run's folder, got 'No space left on device'; free some .*, or move BNF_HOME"
    with disks.full(home), pytest.raises(OSError, match=said):
        start_run(home, make_recipe(TRAINED), "x")
