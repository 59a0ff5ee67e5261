"""Policies of a training's way in the DAG, in its keys, and in an evaluation of a run."""

import json
from dataclasses import replace

import pytest

from flows.dag.checkpoints import kept_checks, of_kept, without_curve
from flows.dag.costs import kept_policies
from flows.dag.graph import build
from flows.errors import RecipeError
from flows.recipe.checkpoints import asked_checkpoints
from flows.recipe.config import load_recipe, make_recipe
from tasks.keys import ROOT
from tasks.nodes import Forecast, Node
from tasks.stages import STAGES
from tests.unit.flows.run_folders import BASE, run_of

MODEL = "models/SmolLM2-135M-Instruct"
needs_model = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")
RECIPE = "flows/recipes/quickstart.yaml"
BEST = ("prepare.dev_fraction=0.1", "train.keep_best=eval_loss", "train.early_stopping_patience=2")
# What a training's key held of its settings before there was anything to choose.
TRAIN_SETTINGS = {
    *(
        "bf16",
        "dev_max_new_tokens",
        "dev_prompts",
        "eval_steps",
        "global_batch_size",
        "gradient_checkpointing",
        "label_weighting",
    ),
    *("learning_rate", "length_normalization", "load_in_4bit", "logging_steps", "lora_alpha", "lora_dropout", "lora_r"),
    *("lora_target_modules", "lr_scheduler_type", "max_grad_norm", "max_groups_per_row", "max_steps", "max_tokens_per_row"),
    *("num_train_epochs", "objective", "objective_options", "optim", "seed", "sharded", "share_prompts", "warmup_ratio"),
    *("weight_decay", "weights"),
}


def nodes(*overrides):
    return {node.id: node for node in build(load_recipe(RECIPE, overrides))}


@needs_model
def test_without_them_every_key_is_what_it_was():
    before = nodes()
    assert before["train"].settings.keys() - {"attention"} == TRAIN_SETTINGS
    assert not [name for name in before if "checkpoint" in name]
    words = json.dumps(
        [[node.settings, dict(node.inputs), list(node.plugins)] for node in before.values() if node.stage != "report"]
    )
    assert not [key for key in ("keep_best", "early_stopping", "checkpoints") if key in words]
    # Nor does anything but the training change with them, and the report, which shows the recipe.
    after = nodes("evaluation.checkpoints=[4, 8]")
    changed = [
        name for name, node in before.items() if (node.settings, node.plugins) != (after[name].settings, after[name].plugins)
    ]
    assert changed == ["train", "report"]
    assert {name: node.inputs for name, node in before.items() if name != "report"} == {
        name: after[name].inputs for name in before if name != "report"
    }


@needs_model
def test_what_chooses_the_policy_is_in_the_trainings_key_alone():
    before, after = nodes("prepare.dev_fraction=0.1"), nodes(*BEST)
    settings = before["train"].settings | {"keep_best": "eval_loss", "early_stopping_patience": 2}
    assert after["train"].settings == settings
    assert [name for name in before if before[name].settings != after[name].settings] == ["train", "report"]


@needs_model
def test_each_policy_is_evaluated_as_the_aligned_model_by_an_engine_of_its_own():
    found = nodes("evaluation.checkpoints=[8, 4, 8]")
    assert found["train"].settings["checkpoints"] == ["step4", "step8"] and "save_steps" not in found["train"].settings
    policy = found["checkpoint/aligned-step4"]
    assert policy.settings == {"checkpoint": "step4"} and policy.inputs == {"training": "train"}
    generate, aligned = found["generate/aligned-step4/gsm8k"], found["generate/aligned/gsm8k"]
    assert generate.inputs == {"model": policy.id} and aligned.inputs == {"model": "train"}
    assert replace(generate, checkpoint=None, inputs=aligned.inputs, session=aligned.session) == aligned
    assert generate.session == found["generate/aligned-step4/crux"].session == "generate/aligned-step4" != aligned.session
    assert found["score/aligned-step4/gsm8k"].inputs == {"completions": generate.id}
    # The judge sees the final policy alone.
    assert not [name for name in found if "step4" in name and "arena_hard" in name]
    order = list(found)
    assert order.index("train") < order.index(policy.id) < order.index(generate.id) < order.index("report") == len(order) - 1
    assert found["report"].inputs.keys() >= {policy.id, "score/aligned-step8/crux"}


@needs_model
def test_all_are_the_saves_and_with_the_best_the_last_policy_too():
    found = nodes("evaluation.checkpoints=all", "train.save_steps=0.5")
    assert found["train"].settings["checkpoints"] == ["save1"] and found["train"].settings["save_steps"] == 0.5
    assert nodes("evaluation.checkpoints=all", *BEST)["train"].settings["checkpoints"] == ["save1", "save2", "save3", "save4"]
    assert nodes("evaluation.checkpoints=all", "train.save_steps=4", "train.max_steps=9")["train"].settings["checkpoints"] == [
        "save1",
        "save2",
    ]


@needs_model
@pytest.mark.parametrize(
    ("name", "these", "others"),
    [
        # The last policy is the same, the first save is another step.
        (
            "save1",
            ["evaluation.checkpoints=all", "train.save_steps=0.25"],
            ["evaluation.checkpoints=all", "train.save_steps=0.5"],
        ),
        # The best policy may be the same, and the step at which the training stopped another.
        (
            "step8",
            ["evaluation.checkpoints=[8]", *BEST],
            ["evaluation.checkpoints=[8]", *BEST, "train.early_stopping_patience=3"],
        ),
    ],
)
def test_one_name_for_policies_of_two_steps_has_two_keys(name, these, others):
    here, there = (nodes(*words)[f"checkpoint/aligned-{name}"] for words in (these, others))
    assert here.settings != there.settings and here.settings["checkpoint"] == there.settings["checkpoint"] == name


@needs_model
def test_of_several_rounds_the_last_training_keeps_them():
    found = {node.id: node for node in build(load_recipe("flows/recipes/rounds.yaml", ["evaluation.checkpoints=[2]"]))}
    assert [name for name, node in found.items() if "checkpoints" in node.settings] == ["train/round3"]
    assert found["checkpoint/aligned-step2"].inputs == {"training": "train/round3"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"checkpoints": "some"},
            r"evaluation\.checkpoints must be all, or a list of steps of the training, got 'some'; write all",
        ),
        ({"checkpoints": [0]}, r"must be all, or a list of steps .*, got \[0\]"),
        ({"checkpoints": []}, r"must be all, or a list of steps .*, got \[\]"),
        ({"checkpoints": "all", "benchmarks": []}, r"checkpoints must be left out without benchmarks, got all; leave it out"),
        (
            {"checkpoints": "all", "engine": "openai", "base_url": "http://x", "model": "m"},
            r"checkpoints must be left out with engine openai, which serves one model, got all",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_when_the_recipe_is_read(section, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe({**BASE, "evaluation": {"benchmarks": ["gsm8k"], **section}})


def test_without_a_training_there_is_no_way():
    with pytest.raises(RecipeError, match=r"evaluation\.checkpoints must be left out where nothing is trained, got all"):
        make_recipe({"model_name_or_path": "m", "evaluation": {"benchmarks": ["gsm8k"], "checkpoints": "all"}})


@pytest.mark.parametrize(
    ("asked", "train", "message"),
    [
        (
            "all",
            {"save_steps": 100},
            r"train\.save_steps must be a share of all steps, or max_steps set, .*got 100 steps.* in a list "
            r"\(evaluation.checkpoints=\[100, 200\]\)",
        ),
        ([9], {"max_steps": 8}, r"evaluation\.checkpoints must be steps of the training, which has 8, got 9; lower it"),
    ],
)
def test_a_number_that_is_not_known_or_too_high_is_refused(asked, train, message):
    recipe = make_recipe({**BASE, "train": train, "evaluation": {"benchmarks": ["gsm8k"], "checkpoints": asked}})
    with pytest.raises(RecipeError, match=message):
        asked_checkpoints(recipe)


@pytest.fixture
def run(tmp_path):
    """A run of eight steps that kept the policies after the second and the sixth."""
    run = run_of(tmp_path, "kept", 1, trained=True, train={"save_steps": 0.25}, scores="+-")
    folder = run.artifacts["train"].path
    manifest = json.loads((folder / "manifest.json").read_text())
    for step in (2, 6):
        file = folder / "policies" / f"step-{step}" / "config.json"
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        manifest["files"][f"policies/step-{step}/config.json"] = {"size": 2, "sha256": "x"}
    (folder / "train_summary.json").write_text(json.dumps({"steps": 8, "policies": {"step2": 2, "step6": 6}}))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return run


def asking(run, checkpoints):
    changed = {"evaluation": {"benchmarks": ["gsm8k"], "checkpoints": checkpoints}}
    return make_recipe({**run.recipe.model_dump(), **changed})


@pytest.mark.parametrize(
    ("asked", "taken", "said"),
    [
        ("all", [2, 6], "after steps 2, 6 of {run} policies were kept; not kept, and so not evaluated: 4 (evaluation"),
        ([6], [6], "after steps 2, 6 of {run} policies were kept"),
        ([6, 7], [6], "not kept, and so not evaluated: 7 (evaluation.checkpoints of `bnf run` keeps them)"),
    ],
)
def test_an_evaluation_takes_what_the_run_kept_and_says_what_it_did_not(run, tmp_path, asked, taken, said):
    recipe = asking(run, asked)
    assert of_kept(tmp_path, recipe, run).evaluation.checkpoints == taken
    (check,) = kept_checks(tmp_path, recipe, run)
    assert check.problem is None and check.is_cost and said.format(run=run.id) in check.seen
    assert ("not kept" in check.seen) == (asked != [6])


def test_an_evaluation_of_steps_that_were_not_kept_is_refused(run, tmp_path):
    with pytest.raises(
        RecipeError, match=r"the training of .* kept \(2, 6\), got \[5\]; write evaluation.checkpoints=\[2, 6\]"
    ):
        of_kept(tmp_path, asking(run, [5]), run)
    home = tmp_path / "other"
    none = run_of(home, "none", 2, trained=True, scores="+-")
    with pytest.raises(
        RecipeError, match=r"\(it kept none\), got all; run its recipe with evaluation.checkpoints=all, which trains again"
    ):
        of_kept(home, asking(none, "all"), none)
    assert of_kept(home, none.recipe, none) == none.recipe


def test_the_disk_is_said_before_the_training(tmp_path, monkeypatch):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(bytes(1 << 20))
    resolve = Node("resolve", {}, files={"model": model}, role="base")
    forecasts = [Forecast(resolve, "x", True, None, []), Forecast(Node("train", {}), "y", False, None, [])]
    changed = {"evaluation": {"benchmarks": ["gsm8k"], "checkpoints": [1, 2]}, "train": {"keep_best": "eval_loss"}}
    recipe = make_recipe({**BASE, "prepare": {"dev_fraction": 0.1}, **changed})
    (check,) = kept_policies(recipe, forecasts, tmp_path / "home")
    assert check.seen == "up to 4 of 0.00 GiB beside the last one (evaluation.checkpoints and train.keep_best)"
    assert check.problem is None and check.is_cost
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3 << 20}))
    (check,) = kept_policies(recipe, forecasts, tmp_path / "home")
    assert "must have 0.00 GiB free for the 4 policies of evaluation.checkpoints and train.keep_best" in check.problem
    assert not list(kept_policies(make_recipe(BASE), forecasts, tmp_path / "home"))
    trained = [forecasts[0], replace(forecasts[1], cached=True)]
    assert not list(kept_policies(recipe, trained, tmp_path / "home"))


def test_room_is_made_for_what_is_kept(tmp_path):
    from bnf.plugins import load

    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    needed = [
        load(STAGES, "train").disk_bytes({"model": tmp_path}, settings)
        for settings in ({}, {"checkpoints": ["save1", "step4"]}, {"checkpoints": ["save1"], "keep_best": "eval_loss"})
    ]
    assert needed == [700, 900, 1000]


def test_what_sees_the_final_policy_alone_is_said():
    judge = {
        "engine": "openai",
        "model": "m",
        "base_url": "http://127.0.0.1:9/v1",
        "benchmarks": {"mt_bench": {"source": "sample"}},
    }
    evaluation = {"benchmarks": ["gsm8k"], "lm_eval": ["arc_challenge"]}
    curve = {**evaluation, "checkpoints": [1, 2]}
    (check,) = without_curve(make_recipe({**BASE, "judge": judge, "evaluation": curve}))
    assert check.problem is None and check.is_said
    assert check.seen == (
        "evaluation.checkpoints adds policies to evaluation.benchmarks alone; judge.benchmarks.mt_bench, "
        "evaluation.lm_eval.arc_challenge evaluate the base model and the final policy"
    )
    assert not list(without_curve(make_recipe({**BASE, "judge": judge, "evaluation": evaluation})))
    assert not list(without_curve(make_recipe({**BASE, "evaluation": {"benchmarks": ["gsm8k"], "checkpoints": [1, 2]}})))
