"""A signature in a URL of the recipe reaches the stage that reads the URL, and nothing that others see."""

import json
import os

import fsspec
import pytest

from evaluation.bundle import url_name
from flows.commands.comparing import differing_settings
from flows.dag.checks import Check
from flows.dag.graph import build
from flows.dag.objective_checks import sources_of
from flows.dag.parts import shown_recipe
from flows.dag.wanted import wanted
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.recipe.paths import without_signatures
from flows.runs.home import open_store
from flows.runs.record import start_run
from tasks.child import StageFailed
from tasks.job import Job
from tasks.keys import ROOT
from tasks.remote import Remote, RemoteError
from tasks.stages import prepare

MODEL = "models/SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")
URL, SHOWN = "memory://signed/a.jsonl?sig=hunter2", "memory://signed/a.jsonl?…"


@pytest.fixture
def recipe():
    with fsspec.open(URL, "w") as file:
        file.write("{}\n")
    raw = {
        **{"name": "d", "model_name_or_path": MODEL, "data": {"source": "pairs", "path": URL}, "train": {}},
        "evaluation": {"benchmarks": {"gsm8k": {"source": "sample"}}},
    }
    return make_recipe(raw)


def test_it_is_in_no_key_and_reaches_the_stage(recipe, tmp_path, monkeypatch):
    dag = {node.id: node for node in build(recipe)}
    node = dag["prepare"]
    assert node.settings["sources"][0]["path"] == SHOWN and node.unkeyed["urls"] == {"source0": URL}
    assert all("hunter2" not in json.dumps(one.settings, default=str) for one in dag.values())
    assert [source.path for source in sources_of(node)] == [URL]
    read = []
    monkeypatch.setattr("data.preparing.prepare.prepare_sources", lambda sources, *rest, **given: read.extend(sources))
    prepare.run(Job({**node.settings, **node.unkeyed}, {"model": tmp_path}, tmp_path, lambda *_: None))
    assert [source.path for source in read] == [URL]


def test_a_fragment_is_in_no_key_either(recipe):
    url = "memory://signed/b.jsonl#access_token=hunter2"
    with fsspec.open(url, "w") as file:
        file.write("{}\n")
    raw = {**recipe.model_dump(exclude_unset=True), "data": {"source": "pairs", "path": url}}
    dag = {node.id: node for node in build(make_recipe(raw))}
    assert dag["prepare"].unkeyed["urls"] == {"source0": url}
    assert all("hunter2" not in json.dumps(one.settings, default=str) for one in dag.values())


def test_a_bundle_fetches_it_whole_and_names_it_without(recipe):
    (one,) = [one for one in wanted(list(build(recipe))) if one.kind == "url"]
    assert one.name == URL and one.part_name == url_name(URL) and "hunter2" not in one.part_key
    assert one.key == "data.path"


def test_sampled_prompts_have_theirs_outside_the_key(recipe):
    raw = {**recipe.model_dump(exclude_unset=True), "data": None, "label": {}}
    raw["sample"] = {"source": "gsm8k", "path": URL, "num_prompts": 1}
    node = {node.stage: node for node in build(make_recipe(raw))}["sample"]
    assert node.settings["path"] == SHOWN and node.unkeyed["urls"] == {"prompts": URL}


def test_report_and_prefect_get_the_recipe_without_it(recipe):
    assert shown_recipe(recipe)["data"]["path"] == SHOWN
    assert "hunter2" not in without_signatures(recipe).model_dump_json()
    plain = make_recipe(
        {"name": "d", "model_name_or_path": MODEL, "data": {"source": "pairs", "path": "s3://b/a.jsonl"}, "train": {}}
    )
    assert without_signatures(plain) == plain


def test_a_runs_recipe_is_its_owners_alone_and_its_record_holds_none(recipe, tmp_path):
    umask = os.umask(0o022)
    try:
        run = start_run(tmp_path, recipe, "x", changed={"data.path": URL, "seed": 3})
        run.end("failed", f"FileNotFoundError: {URL}")
        other = start_run(tmp_path, make_recipe({"name": "e", "model_name_or_path": MODEL}), "x")
    finally:
        os.umask(umask)
    assert run.recipe.sources()[0].path == URL, "a later command reads the data again"
    assert (run.folder / "recipe.yaml").stat().st_mode & 0o777 == 0o600
    assert (other.folder / "recipe.yaml").stat().st_mode & 0o777 == 0o644
    record = (run.folder / "run.json").read_text(encoding="utf-8")
    assert "hunter2" not in record and "seed" in record
    other.end("completed")


def test_a_comparison_says_no_signature(tmp_path):
    runs = []
    for name, query in (("a", "sig=hunter2"), ("b", "sig=hunter3")):
        path = f"https://{name}.host/x.jsonl?{query}"
        recipe = make_recipe(
            {"name": name, "model_name_or_path": MODEL, "data": {"source": "pairs", "path": path}, "train": {}}
        )
        runs.append(start_run(tmp_path, recipe, "x"))
        runs[-1].end("completed")
    found = {entry["key"]: list(entry["values"].values()) for entry in differing_settings(runs)}
    assert found["data.path"] == ["https://a.host/x.jsonl?…", "https://b.host/x.jsonl?…"]


@pytest.mark.parametrize("error", [RecipeError, StageFailed, RemoteError])
def test_messages_say_the_url_without_it(error):
    assert str(error(f"data.path must exist, got nothing at {URL}; correct it")).endswith(f"nothing at {SHOWN}; correct it")
    assert Check("x", f"got {URL}").problem == f"got {SHOWN}"


@pytest.mark.parametrize(
    "url", ["ftp://u:hunter2@127.0.0.1:9/x", "https://hunter2@h/x", "s3://b/p?key=hunter2", "s3://b/p#key=hunter2"]
)
def test_a_shared_stores_url_holds_no_password(url, tmp_path, monkeypatch):
    monkeypatch.setenv("BNF_STORE", url)
    with pytest.raises(RecipeError, match="BNF_STORE must hold no password and no query") as refused:
        open_store(tmp_path)
    assert "hunter2" not in str(refused.value)


def test_a_store_that_fails_is_named_without_its_password(tmp_path):
    remote = Remote(f"file://{tmp_path}/a?key=hunter2")
    with pytest.raises(RemoteError) as failed, remote._reaching():
        raise TimeoutError("no answer from https://h/a?key=hunter2")
    assert "hunter2" not in str(failed.value) and "no answer from https://h/a?…" in str(failed.value)
    assert "hunter2" not in str(remote.damage("x/y"))


def test_what_a_stage_prints_is_logged_without_it():
    from tasks.child import Child

    lines, rest = Child._take(Child.__new__(Child), f"403, url='{URL}'\nnext".encode())
    assert lines == [f"403, url='{SHOWN}'"] and rest == b"next"
