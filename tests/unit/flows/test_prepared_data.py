"""What the preflight, and a run on its way, say of data that are prepared: does a row hold the longest group, what do dev samples cost?"""

import pytest

from bnf.data.groups import Completion, PromptGroup, write_groups
from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.recipe.config import make_recipe
from tasks.keys import ROOT
from tasks.nodes import Forecast
from tasks.store import Artifact

MODEL = "models/SmolLM2-135M-Instruct"

pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


def recipe_of(**train):
    return make_recipe(
        {
            "name": "d",
            "model_name_or_path": MODEL,
            "data": {"source": "pairs", "path": "data/samples/pairs.jsonl"},
            "prepare": {"dev_fraction": 0.1},
            "train": train,
        }
    )


def groups(num_groups, length, name):
    return [
        PromptGroup(f"{name}{number}", (1, 2 + number), (Completion((3,), 1), Completion((4,) * (length - 3), -1)), ((0, 1),))
        for number in range(num_groups)
    ]


def checks_of(recipe, tmp_path, *, cached):
    artifact = Artifact("prepare", "key", "fingerprint", tmp_path)
    return preflight(
        recipe,
        [
            Forecast(node, None, cached, artifact, []) if node.stage == "prepare" else Forecast(node, None, False, None, [])
            for node in build(recipe)
        ],
        tmp_path,
    )


@pytest.mark.parametrize("part", ["", "dev"])
def test_the_longest_group_of_prepared_data_must_fit_a_row(tmp_path, part):
    write_groups(tmp_path, groups(40, 20, "short"))
    write_groups(tmp_path / part, [*groups(4, 20, "short"), *groups(1, 760, "the long one ")])
    problems = [check.problem for check in checks_of(recipe_of(max_tokens_per_row=759), tmp_path, cached=True) if check.problem]
    assert problems == [
        "train.max_tokens_per_row must hold every group, got 759 while the longest group, 'the long one 0', has 760 tokens; raise it "
        "to 760 or more, or lower prepare.max_length, which leaves longer completions out"
    ]
    for recipe, cached in ((recipe_of(max_tokens_per_row=760), True), (recipe_of(max_tokens_per_row=759), None)):
        assert not any(check.problem for check in checks_of(recipe, tmp_path, cached=cached))


@pytest.mark.parametrize(
    ("train", "cached", "said"),
    [
        (
            {},
            False,
            "a sample of each dev prompt, 64 at most, of up to 256 tokens (…) at up to 5 evaluations (…): at most 81,920 tokens",
        ),
        ({}, True, "4 samples of up to 256 tokens (…) at 2 evaluations (…): at most 2,048 tokens"),
        (
            {"dev_prompts": 100, "dev_max_new_tokens": 10, "eval_steps": 7, "global_batch_size": 2},
            True,
            "100 samples of up to 10 tokens (…) at 4 evaluations (…): at most 4,000 tokens",
        ),
        (
            {"eval_steps": 7},
            False,
            "a sample of each dev prompt, 64 at most, of up to 256 tokens (…) at evaluations every 7 steps (…)",
        ),
        (
            {"keep_best": "eval_loss", "dev_prompts": 2},
            False,
            "2 samples of up to 256 tokens (…) at up to 5 evaluations (…): at most 2,560 tokens",
        ),
    ],
)
def test_what_dev_samples_will_cost(tmp_path, train, cached, said):
    write_groups(tmp_path, groups(40, 20, "g"))
    write_groups(tmp_path / "dev", groups(4, 20, "d"))
    (cost,) = [check for check in checks_of(recipe_of(**train), tmp_path, cached=cached) if check.name == "dev samples"]
    shortened = cost.seen.replace("(train.dev_prompts, train.dev_max_new_tokens)", "(…)").replace("(train.eval_steps)", "(…)")
    assert shortened == f"{said}; train.dev_prompts=0 draws none" and cost.problem is None


def test_without_dev_samples_there_is_no_cost_and_keep_best_says_which_key_draws_some(tmp_path):
    def said(**train):
        checks = checks_of(recipe_of(**train), tmp_path, cached=False)
        return [check.seen for check in checks if check.name == "dev samples"]

    unasked = (
        "none, as train.keep_best needs none; train.dev_prompts=64 draws some, for KL, entropy and the check that they end"
    )
    assert said(keep_best="eval_accuracy") == [unasked]
    assert said(dev_prompts=0) == said(dev_prompts=0, keep_best="eval_accuracy") == []


def test_larger_batches_share_the_reference():
    def settings(batch):
        return {node.id: dict(node.settings) for node in build(recipe_of(global_batch_size=batch))}

    small, large, larger = settings(4), settings(64), settings(256)
    assert large["reference"] == larger["reference"] and large["analyze"] == larger["analyze"]
    assert small["reference"] != large["reference"] and large["train"] != larger["train"]
