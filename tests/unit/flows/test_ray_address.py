"""Where Ray is: what a recipe may say, what the preflight asks, and that no key has it."""

import dataclasses
import json

import pytest

from bnf.parallel.cluster import Cluster, Machine
from evaluation.engines import too_many_replicas
from flows.dag import ray_checks
from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from tasks.keys import ROOT
from tasks.nodes import Forecast

MODEL = "models/SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


def recipe(*overrides, engine="transformers"):
    return make_recipe(
        {
            "name": "on_ray",
            "model_name_or_path": MODEL,
            "sample": {"source": "number_comparison", "num_prompts": 4, "engine": engine},
            "label": {"labeler": "verifier"},
            "train": {},
            "evaluation": {"engine": engine, "benchmarks": {"gsm8k": {"source": "sample", "limit": 2}}},
            "judge": {
                "engine": "openai",
                "model": "m",
                "base_url": "http://127.0.0.1:9/v1",
                "benchmarks": {"mt_bench": {"source": "sample", "limit": 2}},
            },
        },
        overrides,
    )


@pytest.mark.parametrize("address", ["none", "local", "auto", "ray://head:10001", "ray://10.0.0.4:20011"])
def test_addresses(address):
    assert recipe(f"ray.address={address}").ray.address == address


@pytest.mark.parametrize(
    ("address", "got", "remedy"),
    [
        (
            "127.0.0.1:6379",
            "'127.0.0.1:6379'",
            "on a machine of that cluster write auto (the variable RAY_ADDRESS=127.0.0.1:6379 says ",
        ),
        (
            "ray://head",
            "'ray://head'",
            "add the port of its client server, which is 10001 unless it was started otherwise: ray://head:10001",
        ),
        ("http://head:8265", "'http://head:8265'", "write ray://HOST:PORT with the port of its client server"),
        ("true", "true", "write none to do without Ray, or local for this machine alone"),
        ("''", "''", "write none to do without Ray"),
        ("3", "3", "write none to do without Ray"),
        ("", "nothing", "write none to do without Ray"),
        ("Local", "'Local'", "write local"),
    ],
)
def test_what_people_write_instead_is_told_what_to_write(address, got, remedy):
    with pytest.raises(RecipeError) as refused:
        recipe(f"ray.address={address}")
    assert str(refused.value).startswith(f"ray.address must be none, local, auto or ray://HOST:PORT, got {got}; {remedy}")


def test_the_address_is_part_of_no_key_and_reaches_the_stages_that_load_a_model():
    plain, on_ray = ({node.id: node for node in build(recipe(*words))} for words in ((), ("ray.address=auto",)))
    assert {name for name in plain if plain[name].settings != on_ray[name].settings} == set()
    # A training must outlive the cluster.
    assert [on_ray[name].session for name in ("reference", "train", "analyze")] == [None, "train", "train"]
    reached = {name for name, node in on_ray.items() if node.unkeyed.get("ray") == "auto"}
    # The judge is an endpoint.
    assert {"sample", "generate/base/gsm8k", "generate/aligned/gsm8k"} <= reached and "judge/mt_bench" not in reached
    # A rule labels, and samples are prepared, without a model.
    assert not {"label", "prepare"} & reached and {"label", "prepare"} <= on_ray.keys()
    assert not any("ray" in node.unkeyed for node in plain.values())


def test_rows_of_sources_are_rendered_on_it():
    data = {"source": "pairs", "path": str(ROOT / "data" / "samples" / "pairs.jsonl")}
    made = make_recipe({"name": "r", "model_name_or_path": MODEL, "data": data, "train": {}}, ["ray.address=local"])
    assert {node.id for node in build(made) if node.unkeyed.get("ray") == "local"} == {"prepare", "reference"}


def checks(made, tmp_path):
    found = preflight(made, [Forecast(node, None, False, None, []) for node in build(made)], tmp_path)
    problems = [check.problem for check in found if check.problem and "judge" not in check.problem]
    return problems, [check.seen for check in found if check.name.startswith("Ray ")]


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of four GPUs, and one without; what was asked."""
    asked = []

    def cluster_at(address):
        asked.append(address)
        return Cluster((Machine(4, 16), Machine(4, 16), Machine(0, 8)))

    monkeypatch.setattr(ray_checks, "cluster_at", cluster_at)
    monkeypatch.setattr(ray_checks, "device_kind", lambda: "cuda")
    monkeypatch.setattr("evaluation.engines.vllm._is_cpu_build", lambda: False)
    return asked


def test_without_ray_nobody_is_asked(cluster, tmp_path):
    assert checks(recipe(), tmp_path) == ([], []) and cluster == []
    assert checks(recipe("ray.address=local"), tmp_path) == ([], ["this machine"]) and cluster == []


def test_replicas_are_counted_against_the_cluster_and_not_against_this_machine(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.engines.own_cores", lambda: [0, 1])
    fits = ("ray.address=ray://head:10001", "evaluation.tensor_parallel_size=3", "evaluation.num_replicas=2")
    assert checks(recipe(*fits, engine="vllm"), tmp_path) == ([], ["3 nodes, 8 GPUs, 40 cores"])
    assert cluster == ["ray://head:10001"]
    # Two GPUs are left over, on two nodes.
    (found,) = set(checks(recipe(*fits, "evaluation.num_replicas=3", engine="vllm"), tmp_path)[0])
    assert found == "evaluation.num_replicas must be at most 2, of the cluster's 8 GPUs, 3 for each, got 3; lower it"
    (found,) = set(checks(recipe(*fits, "evaluation.tensor_parallel_size=9", engine="vllm"), tmp_path)[0])
    assert found == "evaluation.tensor_parallel_size must be at most 4, the GPUs of the cluster's largest node, got 9; lower it"
    (found,) = set(checks(recipe("ray.address=local", "evaluation.num_replicas=3"), tmp_path)[0])
    assert found == "evaluation.num_replicas must be at most 2, this machine's cores, got 3; lower it"


def test_what_keeps_ray_away_is_said_once(cluster, tmp_path, monkeypatch):
    def gone(address):
        raise ValueError(f"ray.address must be that of a cluster that runs, got {address}")

    monkeypatch.setattr(ray_checks, "cluster_at", gone)
    assert checks(recipe("ray.address=auto"), tmp_path)[0] == ["ray.address must be that of a cluster that runs, got auto"]
    monkeypatch.setattr(ray_checks, "find_spec", lambda name: None)
    (found,) = checks(recipe("ray.address=local"), tmp_path)[0]
    assert found.startswith("ray.address must be none without the package ray, got local; .venv/bin/pip install 'ray[data]==")


def test_workers_find_room_on_machines_and_not_across_them():
    cores = Cluster((Machine(0, 2), Machine(0, 6)))
    assert [cores.cores_each(count) for count in (1, 2, 3, 4, 8, 9)] == [6, 3, 2, 2, 1, 0] and cores.room_for(1) == 8
    assert too_many_replicas({"num_replicas": 8}, cores) is None
    assert (
        too_many_replicas({"num_replicas": 9}, cores) == "num_replicas must be at most 8, the cluster's cores, got 9; lower it"
    )


def test_where_ray_is_is_said_when_a_run_begins_and_its_stages_know_it(tmp_path, monkeypatch):
    found = Cluster((Machine(4, 16), Machine(0, 8)), "10.0.0.4:6379")
    monkeypatch.setattr(ray_checks, "cluster_at", lambda address: found)
    made = recipe("ray.address=auto")
    all_checks = preflight(made, [Forecast(node, None, False, None, []) for node in build(made)], tmp_path)
    (check,) = (check for check in all_checks if check.is_said)
    assert (check.name, check.seen) == ("Ray auto", "2 nodes, 4 GPUs, 24 cores at 10.0.0.4:6379")
    assert ray_checks.cluster_variables(all_checks) == {"BNF_RAY_CLUSTER": "10.0.0.4:6379", "BNF_RAY_GPUS": "4"}
    assert ray_checks.cluster_variables([]) == {}
    # `bnf doctor --json` has every check.
    assert json.loads(json.dumps(dataclasses.asdict(check)))["cluster"]["address"] == "10.0.0.4:6379"
