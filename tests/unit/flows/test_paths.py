"""Paths lead to the same files wherever a recipe is read, and what a recipe names is asked of its own folder too."""

import shutil
from pathlib import Path

import pytest

from bnf.plain_yaml import read
from flows.dag.graph import build
from flows.errors import RecipeError
from flows.recipe.config import load_recipe, make_recipe
from flows.recipe.paths import find_path, located
from flows.runs.home import home_folder
from flows.runs.record import start_run
from flows.service.deploy import recipe_parameter
from tasks.keys import ROOT
from tasks.nodes import forecast
from tasks.store import Store

PAIRS = ROOT / "data" / "samples" / "pairs.jsonl"
RECIPE = """
model_name_or_path: model
data: {source: pairs, path: pairs.jsonl}
train: {objective: bnf}
evaluation:
  engine: transformers
  benchmarks: {gsm8k: {source: items.jsonl, limit: 1}, crux: {source: sample}}
judge:
  engine: transformers
  model_name_or_path: ./judge
  benchmarks: {arena_hard: {source: sample, baseline: answers.jsonl}, mt_bench: {source: sample, references: answers.jsonl}}
"""


@pytest.fixture
def folder(tmp_path, tiny_model_dir):
    """A folder of somebody's own with a recipe and everything that it names."""
    place = tmp_path / "mine"
    for name in ("model", "judge"):
        shutil.copytree(tiny_model_dir, place / name)
    shutil.copyfile(PAIRS, place / "pairs.jsonl")
    shutil.copyfile(ROOT / "evaluation" / "benchmarks" / "samples" / "gsm8k.jsonl", place / "items.jsonl")
    (place / "answers.jsonl").write_text('{"id": "x", "completion": "y"}\n')
    (place / "r.yaml").write_text(RECIPE)
    return place


def keys(recipe, home):
    return {name: entry.key for name, entry in forecast(build(recipe), Store(home / "artifacts"), {}).items()}


def test_a_recipe_finds_what_lies_beside_it_and_has_the_same_keys_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    here = load_recipe("r.yaml")
    monkeypatch.chdir(tmp_path)
    there = load_recipe("mine/r.yaml")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert load_recipe("../mine/r.yaml").model_dump() == there.model_dump()
    assert here.model_dump() == there.model_dump() and keys(here, tmp_path) == keys(there, tmp_path)
    assert there.data.path == str(folder / "pairs.jsonl") and there.model_name_or_path == str(folder / "model")
    judged = there.judge.benchmarks
    assert judged["arena_hard"].baseline == judged["mt_bench"].references == str(folder / "answers.jsonl")
    assert there.judge.model_name_or_path == str(folder / "judge") and there.judge.name == "judge"
    assert there.evaluation.benchmarks["crux"].source == "sample"
    files = {path for node in build(there) for path in node.files.values()}
    assert {folder / name for name in ("model", "judge", "pairs.jsonl", "items.jsonl", "answers.jsonl")} <= files


def test_only_what_says_where_a_model_lies_depends_on_the_place(folder, tmp_path):
    """Content is what counts: the same files elsewhere are the same data."""
    shutil.copytree(folder, tmp_path / "copy")
    settings = [
        {
            node.id: node.settings
            for node in build(load_recipe(str(place / "r.yaml")))
            if node.stage not in ("resolve", "report")
        }
        for place in (folder, tmp_path / "copy")
    ]
    assert settings[0] == settings[1]


def test_labels_prompts_and_task_definitions_are_looked_up_beside_the_recipe(folder):
    (folder / "definitions").mkdir()
    (folder / "on.yaml").write_text(
        "model_name_or_path: model\nsample: {source: pairs, path: pairs.jsonl, engine: transformers}\n"
        "label: {labeler: ratings, path: answers.jsonl}\ntrain: {}\n"
        "evaluation: {engine: transformers, lm_eval: [ifeval], lm_eval_include_path: definitions}\n"
    )
    recipe = load_recipe(str(folder / "on.yaml"))
    assert recipe.sample.path == str(folder / "pairs.jsonl") and recipe.label.path == str(folder / "answers.jsonl")
    assert recipe.evaluation.lm_eval_include_path == str(folder / "definitions")


def test_the_recipe_kept_with_a_run_is_one_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    # As from a form: nobody has looked at its paths yet.
    form = make_recipe({"name": "r", "model_name_or_path": "none/such"}).model_copy(update={"model_name_or_path": "model"})
    run = start_run(tmp_path / "home", form, "x")
    run.end("completed")
    monkeypatch.chdir(tmp_path)
    kept = read((run.folder / "recipe.yaml").read_bytes(), "recipe.yaml")
    assert kept["model_name_or_path"] == str(folder / "model") == run.recipe.model_name_or_path
    assert load_recipe(str(run.folder / "recipe.yaml")) == load_recipe(str(run.folder / "recipe.yaml"))
    assert build(run.recipe)[0].files["model"] == folder / "model"


def test_the_projects_own_judge_has_one_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("flows/recipes/quickstart.yaml").judge.name == "models/SmolLM2-135M-Instruct"


def test_the_projects_own_files_have_the_same_keys_wherever_the_project_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("flows/recipes/pairs.yaml")
    assert recipe.model_name_or_path == str(ROOT / "models" / "SmolLM2-135M-Instruct")
    nodes = {node.id: node for node in build(recipe)}
    assert nodes["resolve/base"].settings["model_name_or_path"] == "models/SmolLM2-135M-Instruct"
    assert nodes["report"].settings["recipe"]["data"]["path"] == "data/samples/pairs.jsonl"
    assert str(ROOT) not in str([node.settings for node in nodes.values()])


def test_two_files_of_one_name_are_refused_and_the_same_one_is_not(folder, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (work / "pairs.jsonl").write_text("other\n")
    monkeypatch.chdir(work)
    message = (
        rf"data\.path must name one place, got pairs\.jsonl, .* {work} and beside the recipe in {folder}; write the absolute"
    )
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(folder / "r.yaml"))
    assert load_recipe(str(folder / "r.yaml"), [f"data.path={work / 'pairs.jsonl'}"]).data.path == str(work / "pairs.jsonl")
    (work / "pairs.jsonl").unlink()
    (work / "pairs.jsonl").symlink_to(folder / "pairs.jsonl")
    assert load_recipe(str(folder / "r.yaml")).data.path == str(work / "pairs.jsonl")


def test_what_is_nowhere_is_refused_by_its_key_with_the_places(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for override, key in [
        ("data.path=none.jsonl", "data.path"),
        ("model_name_or_path=./none", "model_name_or_path"),
        ("judge.model_name_or_path=./none", "judge.model_name_or_path"),
        ("evaluation.benchmarks.gsm8k.source=none.jsonl", "evaluation.benchmarks.gsm8k.source"),
        ("judge.benchmarks.arena_hard.source=none.jsonl", "judge.benchmarks.arena_hard.source"),
        ("judge.benchmarks.arena_hard.baseline=none.jsonl", "judge.benchmarks.arena_hard.baseline"),
        ("judge.benchmarks.mt_bench.references=none.jsonl", "judge.benchmarks.mt_bench.references"),
        ("data.path=''", "data.path"),
    ]:
        with pytest.raises(
            RecipeError, match=rf"^{key}: .*must exist, got no such file or folder in {tmp_path} or {folder} or {ROOT}"
        ):
            build(load_recipe(str(folder / "r.yaml"), [override]))


def test_a_tilde_is_the_persons_home_in_every_path(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert find_path("~/mine/r.yaml") == folder / "r.yaml"
    recipe = load_recipe("~/mine/r.yaml", ["data.path=~/mine/pairs.jsonl", "model_name_or_path=~/mine/model"])
    assert recipe.data.path == str(folder / "pairs.jsonl") and recipe.model_name_or_path == str(folder / "model")
    monkeypatch.setenv("BNF_HOME", "~/state")
    assert home_folder() == tmp_path / "state"


def test_a_path_through_a_link_keeps_its_name(folder):
    """In a hub's cache a file's content lies under a name without an ending."""
    (folder / "blob").write_bytes(PAIRS.read_bytes())
    (folder / "link.jsonl").symlink_to(folder / "blob")
    recipe = load_recipe(str(folder / "r.yaml"), ["data.path=link.jsonl"])
    assert recipe.data.path == str(folder / "link.jsonl")
    prepare = next(node for node in build(recipe) if node.stage == "prepare")
    assert prepare.files["source0"] == folder / "link.jsonl"


def test_a_path_has_one_name_unless_a_link_makes_it_another(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    assert find_path("a/b/../x") == find_path("./a//x") == tmp_path / "a" / "x"
    assert find_path("link/../x") == tmp_path / "link" / ".." / "x"


def test_urls_and_hub_ids_are_no_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(
        {
            "name": "r",
            "model_name_or_path": "org/name",
            "data": [{"source": "pairs", "path": "memory://pairs.jsonl"}, {"source": "pairs", "path": "org/set"}],
            "train": {},
        }
    )
    assert [one.path for one in recipe.sources()] == ["memory://pairs.jsonl", "org/set"]
    assert recipe.model_name_or_path == "org/name" and located(recipe) == recipe


def test_a_deployments_recipe_names_the_projects_files_as_any_machine_has_them(folder, monkeypatch):
    monkeypatch.chdir("/")
    given = recipe_parameter("flows/recipes/pairs.yaml")["recipe"]
    assert given["data"]["path"] == "data/samples/pairs.jsonl" and not Path(given["model_name_or_path"]).is_absolute()
    assert recipe_parameter(str(folder / "r.yaml"))["recipe"]["data"]["path"] == str(folder / "pairs.jsonl")


BASE = {"name": "n", "model_name_or_path": "a/b", "data": {"source": "pairs", "path": "x.jsonl"}, "train": {}}
JUDGE = {"engine": "openai", "model": "m", "benchmarks": {"arena_hard": {"source": "sample"}}}
SAMPLE = {"sample": {"source": "gsm8k", "path": "https://u:hunter2@host/a.jsonl"}, "label": {}, "data": None}


@pytest.mark.parametrize(
    ("given", "key", "remedy"),
    [
        ({"evaluation": {"engine": "openai", "model": "m", "base_url": "http://u:hunter2@host/v1"}}, "evaluation.base_url", ""),
        (
            {"judge": {**JUDGE, "base_url": "http://hunter2@host/v1"}},
            "judge.base_url",
            "export the key as OPENAI_API_KEY, or as",
        ),
        ({"judge": {**JUDGE, "base_url": "http://host/v1?key=hunter2"}}, "judge.base_url", ""),
        ({"judge": {**JUDGE, "base_url": "http://host/v1#access_token=hunter2"}}, "judge.base_url", ""),
        ({"data": {"source": "pairs", "path": "HTTPS://hunter2@host/a.jsonl"}}, "data.path", ""),
        (
            {"judge": {**JUDGE, "second": {"engine": "openai", "model": "n", "base_url": "http://u:hunter2@h"}}},
            "judge.second",
            "",
        ),
        (
            {"data": {"source": "pairs", "path": "https://u:hunter2@host/a.jsonl?x=1"}},
            "data.path",
            "set them where fsspec looks",
        ),
        ({"data": [{"source": "pairs", "path": "simplecache::ftp://u:hunter2@host/a"}]}, "data.0.path", ""),
        (SAMPLE, "sample.path", ""),
        (
            {"evaluation": {"benchmarks": {"gsm8k": {"source": "https://u:hunter2@h/a"}}}},
            "evaluation.benchmarks.gsm8k.source",
            "",
        ),
        ({"model_name_or_path": "https://u:hunter2@huggingface.co/a/b"}, "model_name_or_path", ""),
    ],
)
def test_a_url_with_a_password_is_refused_and_not_repeated(given, key, remedy):
    with pytest.raises(RecipeError) as refused:
        make_recipe({**BASE, **given})
    said = str(refused.value)
    assert said.startswith(key) and " must hold no user" in said and remedy in said and "hunter2" not in said


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a@b.jsonl",
        "https://host:81/a.jsonl?sig=x@y",
        "hdfs://me@host/a",
        "abfs://box@account.dfs.host/a",
        "s3://b/a:b@c",
    ],
)
def test_other_urls_with_an_at_sign_are_not(url):
    assert make_recipe({**BASE, "data": {"source": "pairs", "path": url}}).sources()[0].path == url
