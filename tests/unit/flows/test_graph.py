"""The DAG of a recipe: which setting belongs to which stage, and in what order tasks run."""

import importlib.util
import itertools

import pytest

from flows.config import load_recipe, make_recipe
from flows.errors import RecipeError
from flows.graph import build, plugin
from flows.preflight import preflight, require
from tasks.keys import ROOT
from tasks.nodes import Forecast

MODEL = "models/SmolLM2-135M-Instruct"

pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


def nodes(*overrides):
    return {node.id: node for node in build(load_recipe("flows/recipes/quickstart.yaml", overrides))}


def touched(*overrides):
    """The stages whose own key changes with these overrides; the report shows the whole recipe and is left out."""
    before, after = nodes(), nodes(*overrides)
    changed = {
        name for name in before if before[name].settings != after[name].settings or before[name].plugins != after[name].plugins
    }
    return changed - {"report"}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("train.learning_rate=1e-5", {"train"}),
        ("train.save_steps=3", set()),
        ("train.report_to=tensorboard", set()),
        ("train.max_tokens_per_row=1024", {"reference", "train", "analyze"}),
        ("train.objective=sft", {"train"}),
        ("train.objective=kto", {"reference", "train"}),
        ("seed=1", {"sample", "prepare", "train"}),
        ("sample.temperature=1.0", {"sample"}),
        ("judge.demonstration=false", {"judge/arena_hard"}),
        ("evaluation.benchmarks.crux.limit=3", {f"{s}/{m}/crux" for s in ("generate", "score") for m in ("base", "aligned")}),
    ],
)
def test_a_setting_is_part_of_the_keys_of_the_stages_that_read_it(override, changed):
    assert touched(override) == changed


def test_the_token_limit_changes_only_benchmarks_whose_own_limit_is_higher():
    changed = touched("evaluation.max_new_tokens=100")
    assert changed == {f"generate/{model}/{name}" for model in ("base", "aligned") for name in ("gsm8k", "crux", "mmlu_redux")}
    assert nodes()["generate/base/number_comparison"].settings["max_new_tokens"] == 16


def test_inputs_come_first_and_each_models_generations_are_together():
    ordered = list(nodes().values())
    seen: set[str] = set()
    for node in ordered:
        assert set(node.inputs.values()) <= seen
        seen.add(node.id)
    sessions = [session for session, _ in itertools.groupby(node.session for node in ordered) if session]
    assert sessions == ["generate/base", "generate/aligned", "judge/judge"]


def test_benchmarks_keep_the_recipes_order():
    scored = [node.benchmark for node in nodes().values() if node.stage == "score" and node.model == "base"]
    assert scored == ["number_comparison", "gsm8k", "crux", "mmlu_redux"]


def test_a_recipe_without_training_evaluates_the_model_alone():
    recipe = make_recipe(
        {"name": "e", "model_name_or_path": MODEL, "evaluation": {"benchmarks": {"gsm8k": {"source": "sample"}}}}
    )
    assert [node.id for node in build(recipe)] == ["resolve/base", "generate/base/gsm8k", "score/base/gsm8k", "report"]


def test_a_hub_id_is_resolved_later_and_a_mistyped_folder_is_not_a_hub_id():
    recipe = make_recipe({"name": "e", "model_name_or_path": "someone/model"})
    assert build(recipe)[0].files == {}
    for path in ("./nowhere/model", "/nowhere", "models/none", "nowhere"):
        with pytest.raises(RecipeError, match="must exist"):
            build(make_recipe({"name": "e", "model_name_or_path": path}))


def test_names_may_have_hyphens():
    assert plugin("evaluation.benchmarks", "mmlu-redux") == "mmlu_redux"
    recipe = make_recipe({"name": "e", "model_name_or_path": MODEL, "evaluation": {"benchmarks": ["mmlu-redux"]}})
    assert build(recipe)[1].id == "generate/base/mmlu_redux"


def test_an_unknown_name_lists_what_there_is_and_where_to_add_one():
    with pytest.raises(
        RecipeError,
        match=r"benchmarks must be among .*gsm8k.* got 'gsm9k'; did you mean gsm8k\? .*evaluation/benchmarks/gsm9k.py",
    ):
        plugin("evaluation.benchmarks", "gsm9k")


def problems(tmp_path, *overrides):
    recipe = load_recipe("flows/recipes/quickstart.yaml", overrides)
    return [
        check.problem
        for check in preflight(recipe, [Forecast(n, None, False, None, []) for n in build(recipe)], tmp_path)
        if check.problem
    ]


def test_the_preflight_passes_the_quick_start_and_names_what_does_not_fit(tmp_path):
    assert problems(tmp_path) == []
    (problem,) = problems(tmp_path, "train.objective=dpo")
    assert "prepare.pairing must be best_worst or all for dpo, got none" in problem
    assert problems(tmp_path, "train.objective=dpo", "prepare.pairing=all") == []


def test_the_preflight_names_packages_that_training_lacks(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("wandb", "peft") else find(name))
    first, second = problems(tmp_path, "train.report_to=[tensorboard,wandb]", "train.lora_r=8")
    assert (
        "train.report_to=wandb must have the package wandb" in first and "train.lora_r=8 must have the package peft" in second
    )


def test_the_preflight_refuses_a_model_without_a_chat_template(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    (problem,) = problems(tmp_path, f"model_name_or_path={folder}", "judge=null")
    assert "must have a chat template" in problem
    with pytest.raises(RecipeError, match="chat template"):
        recipe = load_recipe("flows/recipes/quickstart.yaml", [f"model_name_or_path={folder}", "judge=null"])
        require(preflight(recipe, [Forecast(n, None, False, None, []) for n in build(recipe)], tmp_path))
