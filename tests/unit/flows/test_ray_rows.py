"""Reference passes and reward models on Ray, from the recipe to what computes: settings, keys, and what is refused before a run."""

from types import SimpleNamespace

import pytest

from bnf.parallel.cluster import Cluster, Machine
from flows.dag import ray_checks
from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from tasks.job import Job
from tasks.keys import ROOT
from tasks.nodes import Forecast
from tasks.resources import num_devices
from tasks.stages import reference

MODEL = "models/SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")
REWARDS = {"engine": "reward_model", "model_name_or_path": MODEL}
SECTIONS = ("judge", "judge.second", "label.judge")


def recipe(*overrides):
    return make_recipe(
        {
            "name": "rows",
            "model_name_or_path": MODEL,
            "sample": {"source": "number_comparison", "num_prompts": 4, "engine": "transformers"},
            "label": {"labeler": "reward_model", "judge": REWARDS},
            "train": {},
            "judge": {**REWARDS, "second": REWARDS, "benchmarks": {"mt_bench": {"source": "sample", "limit": 2}}},
        },
        overrides,
    )


def nodes(made):
    return {node.id: node for node in build(made)}


def problems(made, tmp_path):
    found = preflight(made, [Forecast(node, None, False, None, []) for node in build(made)], tmp_path)
    return [check.problem for check in found if check.problem]


def test_the_address_reaches_the_reference_pass_and_no_key(tmp_path, monkeypatch):
    from bnf.reference.launch import ReferenceCall

    plain, on_ray = nodes(recipe())["reference"], nodes(recipe("ray.address=auto"))["reference"]
    assert on_ray.settings == plain.settings
    calls = []
    monkeypatch.setattr(ReferenceCall, "launch", lambda call, progress: calls.append(call))
    for node in (plain, on_ray):
        reference.run(Job({**node.settings, **node.unkeyed}, dict.fromkeys(node.inputs, tmp_path), tmp_path, lambda *_: None))
    assert [call.ray for call in calls] == [None, "auto"]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_reward_models_replicas_are_on_ray_and_part_of_no_key(section):
    with pytest.raises(RecipeError) as refused:
        recipe(f"{section}.num_replicas=2")
    assert str(refused.value) == (
        f"{section}.num_replicas must be 1 or left out with engine reward_model, whose replicas are on Ray, got 2 without ray.address; "
        "set ray.address=local, or a cluster's"
    )
    recipe(f"{section}.num_replicas=1")
    plain, placed = nodes(recipe()), nodes(recipe("ray.address=auto", f"{section}.num_replicas=2"))
    assert {name for name in plain if plain[name].settings != placed[name].settings} == {"report"}
    stage = {"judge": "judge/mt_bench", "judge.second": "judge/second/mt_bench", "label.judge": "label"}[section]
    assert {name for name, node in placed.items() if "engine_placement" in node.unkeyed} == {stage}
    assert placed[stage].unkeyed["engine_placement"] == {"num_replicas": 2} and placed[stage].unkeyed["ray"] == "auto"


def test_the_model_is_opened_with_what_the_recipe_says(tmp_path, monkeypatch):
    from evaluation.judging import open_judge

    opened = []
    monkeypatch.setattr(open_judge, "RewardModel", lambda folder, **given: opened.append(given) or SimpleNamespace())
    judges = []
    for node in (nodes(recipe())["label"], nodes(recipe("ray.address=auto", "label.judge.num_replicas=2"))["label"]):
        judges.append(open_judge.open_judge({**node.settings, **node.unkeyed}, tmp_path, "x"))
    assert [(given["num_replicas"], given["ray"]) for given in opened] == [(1, None), (2, "auto")]
    assert judges[0].identity == judges[1].identity


def test_a_sharded_reference_stays_in_the_trainings_process_without_ray(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_checks, "cluster_at", lambda address: Cluster((Machine(0, 2),)))
    monkeypatch.setattr(ray_checks, "device_kind", lambda: "cuda")
    placed = "ray.address=auto", "train.nproc_per_node=2"
    assert num_devices(nodes(recipe(*placed))["reference"], 8) == 8
    for sharding in ("full", "hybrid"):
        sharded = recipe(*placed, f"train.sharding={sharding}", *(["train.num_nodes=2"] if sharding == "hybrid" else []))
        reference = nodes(sharded)["reference"]
        assert "ray" not in reference.unkeyed and reference.session == "train"
        assert num_devices(reference, 8) == (2 if sharding == "full" else 8)
        # Reward models go to the cluster, whose devices may be of another kind.
        assert not any("its reference is compared" in problem for problem in problems(sharded, tmp_path))


def test_the_preflight_counts_replicas_and_looks_at_the_kind_of_device(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.engines.own_cores", lambda: [0, 1])
    here = problems(recipe("ray.address=local", "label.judge.num_replicas=3"), tmp_path)
    assert "label.judge.num_replicas must be at most 2, this machine's cores, got 3; lower it" in here
    monkeypatch.setattr(ray_checks, "cluster_at", lambda address: Cluster((Machine(0, 2), Machine(0, 2))))
    monkeypatch.setattr(ray_checks, "device_kind", lambda: "cpu")
    there = problems(recipe("ray.address=auto", "judge.num_replicas=5", "label.judge.num_replicas=4"), tmp_path)
    assert "judge.num_replicas must be at most 4, the cluster's cores, got 5; lower it" in there
    assert not any(problem.startswith(("label.judge.num_replicas", "ray.address")) for problem in there)
    monkeypatch.setattr(ray_checks, "device_kind", lambda: "cuda")
    (found,) = [problem for problem in problems(recipe("ray.address=auto"), tmp_path) if problem.startswith("ray.address")]
    assert found.startswith("ray.address must be that of a cluster whose nodes compute on cuda") and "got one on cpu" in found
