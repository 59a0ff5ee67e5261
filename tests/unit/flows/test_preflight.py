"""The preflight: what a recipe would stumble over is said before anything runs."""

import importlib.util

import pytest

from flows.dag.graph import build
from flows.dag.preflight import preflight, require
from flows.errors import RecipeError
from flows.recipe.config import load_recipe, make_recipe
from tasks.keys import ROOT
from tasks.nodes import Forecast

MODEL = "models/SmolLM2-135M-Instruct"
PAIRS = {"source": "pairs", "path": "data/samples/pairs.jsonl"}

pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


def problems(tmp_path, *overrides):
    recipe = load_recipe("flows/recipes/quickstart.yaml", overrides)
    return [
        check.problem
        for check in preflight(recipe, [Forecast(n, None, False, None, []) for n in build(recipe)], tmp_path)
        if check.problem
    ]


def test_the_preflight_names_unknown_lm_eval_tasks(tmp_path):
    recipe = make_recipe({"name": "e", "model_name_or_path": MODEL, "evaluation": {"lm_eval": ["arc_challenge"]}})
    checks = preflight(recipe, [Forecast(n, None, False, None, []) for n in build(recipe)], tmp_path)
    assert [(check.name, check.problem) for check in checks if "lm-eval" in check.name] == [("lm-eval arc_challenge", None)]


def test_the_preflight_passes_the_quick_start_and_names_what_does_not_fit(tmp_path):
    assert problems(tmp_path) == []
    dpo = ("train.objective=dpo", "train.label_weighting=none")
    (problem,) = problems(tmp_path, *dpo)
    assert "prepare.pairing must be best_worst or all for dpo, got none" in problem
    assert problems(tmp_path, *dpo, "prepare.pairing=all") == []


def test_the_preflight_names_packages_that_training_lacks(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("wandb", "peft") else find(name))
    first, second = problems(tmp_path, "train.report_to=[tensorboard,wandb]", "train.lora_r=8")
    assert (
        "train.report_to=wandb must have the package wandb" in first and "train.lora_r=8 must have the package peft" in second
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            '{"question": "a", "chosen": "b", "rejected": "c"}\n',
            "line 1: must have prompt, got no prompt; the row has question",
        ),
        ("", "no row; check data.1.columns"),
        ("{broken\n", "line 1: not JSON"),
        ('{broken\n{"prompt": "a", "chosen": "b", "rejected": "c"}\n', None),
    ],
)
def test_the_preflight_reads_the_first_rows_of_every_source(tmp_path, text, found):
    (tmp_path / "p.jsonl").write_text(text)
    recipe = make_recipe(
        {
            "name": "d",
            "model_name_or_path": MODEL,
            "data": [PAIRS, {"source": "pairs", "path": str(tmp_path / "p.jsonl")}],
            "train": {},
        }
    )
    checks = preflight(recipe, [Forecast(n, None, False, None, []) for n in build(recipe)], tmp_path)
    assert [check.name for check in checks if check.name.startswith("source")] == ["source pairs"] * 2
    problems = [check.problem for check in checks if check.problem]
    assert not problems if found is None else found in problems[0]


def test_masks_of_either_side_are_refused_for_objectives_that_need_pairs(tmp_path):
    raw = {"name": "d", "model_name_or_path": MODEL, "data": PAIRS, "train": {"objective": "dpo"}}
    recipe = make_recipe(raw, ["prepare.pairing=all", "prepare.mask_to_rejected=0.25"])
    checks = preflight(recipe, [Forecast(n, None, False, None, []) for n in build(recipe)], tmp_path)
    assert any("must be 0 for dpo, which needs pairs, got 0.25" in (check.problem or "") for check in checks)


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


ON_POLICY = (
    "sample.temperature=1.0",
    "prepare.max_preferred=null",
    "prepare.max_dispreferred=null",
    "train.label_weighting=none",
)


@pytest.mark.parametrize("objective", ["reinforce", "ppo", "grpo", "gspo", "topr"])
def test_policy_gradient_needs_all_samples_of_the_policy_itself(tmp_path, objective):
    recipe = (*ON_POLICY, f"train.objective={objective}")
    assert problems(tmp_path, *recipe) == []
    for override, key, value in (
        ("sample.temperature=0.7", "sample.temperature must be 1.0", "0.7; write sample.temperature=1"),
        ("sample.temperature=[1.0, 0.7]", "sample.temperature must be 1.0", "[1.0, 0.7]; write sample.temperature=1"),
        ("sample.top_p=0.9", "sample.top_p must be 1.0", "0.9; write sample.top_p=1"),
        ("prepare.max_preferred=3", "prepare.max_preferred must be left out", "3; leave it out"),
        ("prepare.pairing=all", "prepare.pairing must be 'none'", "'all'; leave it out"),
        ("prepare.flip_fraction=0.1", "prepare.flip_fraction must be 0.0", "0.1; leave it out"),
    ):
        (problem,) = problems(tmp_path, *recipe, override)
        assert problem.startswith(f"{key} for train.objective={objective}, which needs") and problem.endswith(f"got {value}")


def test_the_quick_starts_limits_are_refused_for_policy_gradient(tmp_path):
    found = problems(tmp_path, "train.objective=grpo", "train.label_weighting=none")
    assert [problem.partition(" ")[0] for problem in found] == [
        *("sample.temperature", "prepare.max_preferred", "prepare.max_dispreferred"),
    ]


def test_more_processes_than_cores_are_refused_and_not_on_ray(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.dag.preflight.own_cores", lambda: [0, 1])

    def found(*overrides):
        recipe = make_recipe({"name": "d", "model_name_or_path": MODEL, "data": PAIRS, "train": {}}, overrides)
        checks = preflight(recipe, [Forecast(n, None, False, None, []) for n in build(recipe)], tmp_path)
        return [check.problem for check in checks if check.problem and "num_proc" in check.problem]

    assert found("prepare.num_proc=3") == [
        "prepare.num_proc must be at most 2, this machine's cores, got 3; lower it, or leave it out for one per core"
    ]
    assert found("prepare.num_proc=2") == found() == []
    # There it is the most of the cluster's cores.
    assert found("prepare.num_proc=3", "ray.address=local") == []
