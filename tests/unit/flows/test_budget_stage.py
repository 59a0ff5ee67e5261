"""`max_tokens_per_row: auto` in the graph: a stage of its own, whose value and nothing else enters the keys of those that pack rows."""

import json

import pytest

from flows.dag import on_policy
from flows.dag.graph import build
from flows.recipe.config import load_recipe
from tasks.job import Job
from tasks.nodes import forecast
from tasks.stages import budget, in_order
from tasks.stages._rows import max_tokens_per_row
from tasks.store import Artifact, Store

PAIRS = "flows/recipes/pairs.yaml"
AUTO = "train.max_tokens_per_row=auto"


def nodes(*overrides, recipe=PAIRS):
    return {node.id: node for node in build(load_recipe(recipe, overrides))}


def test_the_stage_is_there_only_where_the_recipe_says_auto():
    assert "budget" not in nodes()
    dag = nodes(AUTO)
    assert dag["budget"].inputs == {"model": "resolve/base", "data": "prepare"}
    assert [dag[name].inputs["budget"] for name in ("reference", "train", "analyze")] == ["budget"] * 3
    order = list(dag)
    assert order.index("prepare") < order.index("budget") < order.index("reference") < order.index("train")
    stages = in_order()
    assert stages.index("prepare") < stages.index("budget") < stages.index("reference")


def test_each_round_has_its_own():
    dag = nodes(AUTO, recipe="flows/recipes/rounds.yaml")
    assert dag["train/round2"].inputs["budget"] == dag["reference/round2"].inputs["budget"] == "budget/round2"
    assert dag["budget/round2"].inputs == {"model": "train/round1", "data": "prepare/round2"}
    assert dag["measure/round2"].settings["max_tokens_per_row"] == 4096


def test_its_key_has_what_decides_the_memory_and_the_machine(monkeypatch):
    before = nodes(AUTO)["budget"].settings
    assert nodes(AUTO, "train.learning_rate=1e-3", "train.save_steps=3")["budget"].settings == before
    for other in ("train.gradient_checkpointing=true", "train.global_batch_size=3", "train.bf16=false"):
        assert nodes(AUTO, other)["budget"].settings != before
    monkeypatch.setattr(on_policy, "total_memory", lambda: 5)
    assert nodes(AUTO)["budget"].settings != before
    monkeypatch.setattr(on_policy, "devices", lambda: [("NVIDIA H100", 7)])
    assert nodes(AUTO)["budget"].settings["machine"] == [["NVIDIA H100", 7]]


def keys(tmp_path, fingerprint):
    dag = list(nodes(AUTO).values())
    made = {
        node.id: Artifact(node.stage, "key", fingerprint if node.id == "budget" else "print", tmp_path)
        for node in dag
        if node.stage in ("resolve", "prepare", "budget", "reference")
    }
    known = forecast(dag, Store(tmp_path / "home"), made)
    return {name: known[name].key for name in ("reference", "train")}


def test_the_keys_follow_the_value(tmp_path):
    first, other = keys(tmp_path, "of 2048"), keys(tmp_path, "of 4096")
    assert first == keys(tmp_path, "of 2048") and None not in first.values()
    assert first["reference"] != other["reference"] and first["train"] != other["train"]


def test_the_output_is_the_number_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("bnf.training.budget.find_budget", lambda *_: 2048)
    job = Job({"train": {"max_tokens_per_row": "auto"}}, {"model": tmp_path, "data": tmp_path}, tmp_path, lambda *_: None)
    budget.run(job)
    assert budget.CONTENT == ("budget.json",)
    assert json.loads((tmp_path / "budget.json").read_text()) == {"max_tokens_per_row": 2048}
    assert "rows of 2,048 tokens fit" in budget.outcome(tmp_path)
    assert max_tokens_per_row(Job({"max_tokens_per_row": "auto"}, {"budget": tmp_path}, tmp_path, lambda *_: None)) == 2048
    assert max_tokens_per_row(Job({"max_tokens_per_row": 96}, {}, tmp_path, lambda *_: None)) == 96


@pytest.mark.parametrize("wrong", ["automatic", "0"])
def test_another_word_is_refused(wrong):
    with pytest.raises(Exception, match="whole number of at least 1, or auto"):
        load_recipe(PAIRS, [f"train.max_tokens_per_row={wrong}"])
