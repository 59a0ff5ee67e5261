"""A run's plan is made once, by the command that starts the flow or by the flow itself, and reads nothing that is no model."""

import shutil
from dataclasses import replace

import pytest

from flows import align
from flows.dag.plan import make_plan
from flows.dag.selection import Options
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from tasks.keys import ROOT
from tasks.store import Store
from tests.unit.flows.run_folders import make

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"


def recipe_of(model, **changes):
    return make_recipe({"name": "r", "model_name_or_path": str(model), **changes})


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """The plans with which the flow begins its stages, and how many plans were made."""
    plans, made = [], []
    monkeypatch.setenv("BNF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(align, "mark_crashed", lambda home: None)
    monkeypatch.setattr(align, "_align", lambda plan, outcome: plans.append(plan))
    monkeypatch.setattr(align, "make_plan", lambda *args: made.append(make_plan(*args)) or made[-1])
    return plans, made


@pytest.mark.skipif(not MODEL.exists(), reason="the demonstration model is not there; run `make env`")
def test_the_flow_takes_the_plan_of_the_command_that_calls_it(begun, tmp_path):
    plans, made = begun
    plan = make_plan(tmp_path / "home", recipe_of(MODEL), Options())
    token = align.PLAN.set(plan)
    try:
        align.align.fn(plan.recipe)
    finally:
        align.PLAN.reset(token)
    assert plans == [plan] and made == []


@pytest.mark.skipif(not MODEL.exists(), reason="the demonstration model is not there; run `make env`")
def test_a_flow_that_a_deployment_starts_makes_its_plan_once_and_refuses_what_a_command_would(begun, tmp_path):
    plans, made = begun
    align.align.fn(recipe_of(MODEL), refresh=["report"])
    assert plans == made and plans[0].options == Options(refresh=["report"])
    with pytest.raises(RecipeError, match=r"must be a folder with config\.json"):
        align.align.fn(recipe_of(tmp_path))
    assert len(plans) == 1


@pytest.mark.skipif(not MODEL.exists(), reason="the demonstration model is not there; run `make env`")
def test_an_artifact_that_is_dropped_after_the_plan_is_refused_before_a_stage_begins(begun, tmp_path):
    plans, _ = begun
    plan = make_plan(tmp_path / "home", recipe_of(MODEL), Options())
    artifact = make(tmp_path / "home", "train", "weights")
    plan = replace(plan, options=Options(evaluate_run="earlier"), pinned={"train": artifact})
    token = align.PLAN.set(plan)
    try:
        align.align.fn(plan.recipe)
        assert plans == [plan]
        shutil.rmtree(artifact.path)
        with pytest.raises(
            RecipeError, match=r"earlier must have its artifact of train, got a damaged one .*; run its recipe again"
        ):
            align.align.fn(plan.recipe)
    finally:
        align.PLAN.reset(token)
    assert plans == [plan]


def test_a_folder_that_is_no_model_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "no_model").mkdir()
    (tmp_path / "no_model" / "film.mkv").write_bytes(b"hours")
    read = []
    monkeypatch.setattr(Store, "outside_fingerprint", lambda self, path: read.append(path) or "digest")
    plan = make_plan(tmp_path / "home", recipe_of(tmp_path / "no_model"), Options())
    assert tmp_path / "no_model" not in read
    assert [entry.cached for entry in plan.forecasts.values()] == [False, False]
    [problem] = [check.problem for check in plan.checks if check.problem]
    assert problem.startswith("model_name_or_path must be a folder with config.json, got ")
