"""A sweep before it is run: its file, the grid of its runs, what they share, and the choice of settings."""

import re
from pathlib import Path

import pytest
import yaml

from flows.dag.checks import Check
from flows.dag.choosing import check_choice, choose, chosen_points, contests, how_chosen
from flows.dag.graph import build
from flows.dag.points import make_points
from flows.dag.sharing import shared_first, work_of
from flows.dag.sweep_outlook import sweep_outlook
from flows.dag.sweep_plan import devices_needed, make_sweep_plan, trained_only
from flows.errors import RecipeError
from flows.recipe.config import load_recipe
from flows.recipe.sweep_file import Select, load_sweep
from flows.runs.record import start_run
from flows.runs.swept import of_policy
from tasks.keys import ROOT
from tasks.stages import in_order
from tests.recipes import SWEEPS
from tests.unit.conftest import DEMONSTRATION_MODEL

EXAMPLE = "flows/recipes/studies/objectives.yaml"
BASE = {
    "model_name_or_path": "m",
    "data": {"source": "pairs", "path": "mine.jsonl"},
    "prepare": {"pairing": "all", "dev_fraction": 0.1},
    "train": {},
    "evaluation": {"benchmarks": {"number_comparison": {"limit": 2}}},
}
RATES = {"train.objective": ["bnf", "dpo"], "train.learning_rate": [1e-5, 2e-5], "seed": [0, 1]}
OVER_RATES = {"on": "dev", "by": "eval_accuracy", "over": ["train.learning_rate"]}


@pytest.fixture
def written(tmp_path):
    """Write a sweep and its base, and give the sweep's path."""

    def write(base=BASE, **sweep):
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
        (tmp_path / "mine.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
        (tmp_path / "tuned.yaml").write_text(yaml.safe_dump({"base": "base.yaml", **sweep}, sort_keys=False))
        return str(tmp_path / "tuned.yaml")

    return write


def points_of(path, *overrides):
    return make_points(load_sweep(path, overrides))


def test_every_value_meets_every_other_and_names_say_which(written):
    points = points_of(written(sweep=RATES))
    assert [point.recipe.name for point in points[:3]] == [
        *("tuned-bnf-lr1e-5-seed0", "tuned-bnf-lr1e-5-seed1", "tuned-bnf-lr2e-5-seed0")
    ]
    assert len({point.recipe.name for point in points}) == 8
    last = points[-1]
    assert (last.label, last.recipe.seed, last.objective) == ("dpo lr2e-5", 1, "dpo")
    assert last.settings == {"train.objective": "dpo", "train.learning_rate": 2e-5, "seed": 1}
    assert last.recipe.train["learning_rate"] == 2e-5
    assert last.changed["train.objective"] == "dpo" and last.changed["name"] == last.recipe.name


def test_the_base_is_looked_up_beside_the_sweep_though_the_working_folder_has_one_too(written, tmp_path, monkeypatch):
    path = written(sweep={"seed": [0]})
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "base.yaml").write_text(yaml.safe_dump({**BASE, "model_name_or_path": "another"}))
    monkeypatch.chdir(other)
    [point] = points_of(path)
    assert point.recipe.model_name_or_path == "m" and Path(point.recipe.data.path).parent == tmp_path
    assert point.recipe.name == "tuned", "an axis with one value tells no runs apart"


def test_variants_have_names_and_set_several_keys(written):
    variants = [{"name": "plain"}, {"name": "pairs", "train.objective": "dpo", "train.objective-options": {"beta": 0.3}}]
    points = points_of(written(sweep={"variant": variants, "seed": [0, 1]}), "train.max_steps=3", "name=mine")
    assert [point.recipe.name for point in points] == [
        "mine-plain-seed0",
        "mine-plain-seed1",
        "mine-pairs-seed0",
        "mine-pairs-seed1",
    ]
    assert points[2].settings == {"variant": "pairs", "seed": 0}
    assert points[2].recipe.train_config().objective_options == {"beta": 0.3}
    assert {point.recipe.train_config().max_steps for point in points} == {3}


def test_runs_whose_settings_make_no_name_have_numbers(written):
    long = [{"name": "x" * 60 + end} for end in "ab"]
    long[1]["train.max_steps"] = 1
    points = points_of(
        written(sweep={"variant": long, "train.lora_target_modules": [["q_proj"], ["v_proj"]], "train.lora_r": [4]})
    )
    assert [point.recipe.name for point in points] == ["tuned-1", "tuned-2", "tuned-3", "tuned-4"]


@pytest.mark.parametrize(
    ("sweep", "overrides", "message"),
    [
        ({"train.learning_rat": [1]}, (), "the run of the sweep: train.learning_rat must be a known key"),
        ({"colour": ["red"]}, (), "the run of the sweep: colour must be a key of the recipe"),
        ({}, (), "sweep must be 1 or more"),
        ({"seed": []}, (), "sweep.seed must have a value or more, got an empty list"),
        ({"seed": 3}, (), "sweep.seed must be a list, got 3"),
        ({"seed": [0, 1, 0]}, (), "sweep.seed must have each value once, got 0 twice"),
        (
            {"train.learning_rate": [1e-5, "fast"], "seed": [0, 1]},
            (),
            "^2 of 4 runs of the sweep, with train.learning_rate=fast: train.learning_rate must be",
        ),
        (
            {"train.objective": ["bnf", "dpo"], "train.label_weighting": ["none", "balanced"]},
            (),
            "^1 of 4 runs of the sweep, with train.objective=dpo train.label_weighting=balanced: ",
        ),
        ({"variant": [{"name": "a"}, {"name": "a"}]}, (), "sweep.variant must have each name once, got 'a' twice"),
        ({"variant": ["a"]}, (), "sweep.variant must be a list of mappings with a name"),
        (
            {"variant": [{"name": "a", "seed": 1}], "seed": [0]},
            (),
            "sweep.variant must set other keys than the axes, got seed in a",
        ),
        (
            {"variant": [{"name": "a"}, {"name": "b"}]},
            (),
            "got the same recipe with variant=a and with variant=b",
        ),
        ({"seed": [0]}, ("seed=3",), "seed must be set where the sweep sets it"),
        (
            {"variant": [{"name": "a", "train.objective": "bnf"}, {"name": "b", "train.objective": "dpo"}]},
            ("train.objective=kto",),
            "train.objective must be set where the sweep sets it, got it on the command line too; change sweep.variant",
        ),
        (
            {"evaluation.benchmarks": [{"gsm8k": {}}]},
            ("evaluation.benchmarks.gsm8k.limit=3",),
            "evaluation.benchmarks.gsm8k.limit must be set where the sweep sets it, got it .* change sweep.evaluation.benchmarks",
        ),
        ({"name": ["a"], "seed": [0, 1]}, (), "sweep.name must not be an axis"),
        ({"train": [{"objective": "bnf"}]}, (), r"sweep must set keys of train one by one, .*; write train\.objective"),
        ({"variant": [{"name": "a", "train": {"max_steps": 1}}]}, (), "sweep must set keys of train one by one"),
        (
            {"train.objective_options": [{"beta": 0.1}], "train.objective_options.beta": [0.1]},
            (),
            "sweep must have axes of keys that don't hold one another, got train.objective_options and train.objective_options.beta",
        ),
        ({"variant": [{"name": ""}]}, (), "sweep.variant must have names with a letter or a digit, got ''"),
        ({"variant": [{"name": "/"}]}, (), "sweep.variant must have names with a letter or a digit, got '/'"),
        (None, (), "sweep must be a mapping of recipe keys to lists of values, got nothing; write such as"),
        ({"seed": [0]}, ("name=a b",), "name must be letters, digits"),
    ],
)
def test_what_makes_no_grid_is_refused(written, sweep, overrides, message):
    with pytest.raises(RecipeError, match=message):
        points_of(written(sweep=sweep), *overrides)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on": "gsm8k"}, "select.on must be dev, got 'gsm8k': a benchmark on which settings are chosen"),
        ({"by": "accuracy"}, "select.by must be 'eval_accuracy' or 'eval_loss', got 'accuracy'"),
        ({"over": []}, "select.over must be 1 or more"),
        ({"over": ["train.beta"]}, r"select.over must name axes of the sweep \(train.objective, train.learning_rate, seed\)"),
        ({"over": ["seed"]}, "select.over must leave out seed"),
        ({"over": ["train.objective"]}, "select.over must leave out train.objective"),
    ],
)
def test_a_choice_on_anything_but_the_dev_set_or_between_what_cannot_be_compared_is_refused(written, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_sweep(written(sweep=RATES, select={**OVER_RATES, **changes}))


def test_losses_with_other_options_are_not_compared(written):
    sweep = {"train.objective_options.beta": [0.1, 0.3]}
    select = {"on": "dev", "by": "eval_loss", "over": ["train.objective_options.beta"]}
    with pytest.raises(RecipeError, match=r"select.by must be eval_accuracy over train.objective_options.beta"):
        load_sweep(written(sweep=sweep, select=select))


def checked(path, model=None):
    sweep = load_sweep(path)
    points = make_points(sweep)
    check_choice(sweep.select, points, [work_of(build(point.recipe)) for point in points])


def test_a_choice_needs_a_dev_set_and_the_same_one(written):
    base = {**BASE, "model_name_or_path": str(DEMONSTRATION_MODEL)}
    checked(written(base, sweep=RATES, select=OVER_RATES))
    with pytest.raises(RecipeError, match=r"select must have a dev set to choose on, got prepare.dev_fraction 0 with"):
        checked(written({**base, "prepare": {"pairing": "all"}}, sweep=RATES, select=OVER_RATES))
    shares = {"prepare.dev_fraction": [0.1, 0.2], "seed": [0, 1]}
    with pytest.raises(
        RecipeError, match=r"must leave the dev set as it is, got other data with prepare.dev_fraction=0.2 seed=0"
    ):
        checked(written(base, sweep=shares, select={**OVER_RATES, "over": ["prepare.dev_fraction"]}))


def values(points, *figures):
    return {point.recipe.name: figure for point, figure in zip(points, figures, strict=True) if figure is not None}


def test_the_best_mean_over_all_seeds_is_chosen_for_each_objective_and_of_equals_the_first(written):
    points = points_of(written(sweep=RATES))
    # Seeds 0 and 1 of each rate: bnf 0.55 and 0.6, dpo 0.7 and 0.7.
    found = values(points, 0.9, 0.2, 0.6, 0.6, 0.7, 0.7, 0.5, 0.9)
    choices = choose(Select(**OVER_RATES), points, found)
    assert [(one.name, one.settings["train.learning_rate"]) for one in choices] == [("dpo", 1e-5), ("bnf", 2e-5)][::-1]
    bnf = choices[0].candidates
    assert [(one.settings["train.learning_rate"], one.by_seed, one.mean) for one in bnf] == [
        (2e-5, {0: 0.6, 1: 0.6}, pytest.approx(0.6)),
        (1e-5, {0: 0.9, 1: 0.2}, pytest.approx(0.55)),
    ]
    taken = chosen_points(Select(**OVER_RATES), points, choices)
    assert [point.recipe.name for point in taken] == [
        *("tuned-bnf-lr2e-5-seed0", "tuned-bnf-lr2e-5-seed1", "tuned-dpo-lr1e-5-seed0", "tuned-dpo-lr1e-5-seed1")
    ]
    assert how_chosen(Select(**OVER_RATES), choices) == (
        "the train.learning_rate with the highest eval_accuracy on the dev set in the mean of all seeds, before anything else was "
        "evaluated; each among 2 settings"
    )


def test_settings_whose_short_words_are_alike_are_told_apart(written):
    """A list has no word of its own, and of a path only the end is shown: such settings are still not one."""
    betas = {"train.objective": ["dpo"], "train.objective_options": [{"beta": 0.1}, {"beta": 0.5}]}
    points = points_of(written(sweep={**betas, "train.learning_rate": [1e-5, 2e-5], "seed": [0, 1]}))
    assert [point.label for point in points[::2]] == [
        f"train.objective_options={{beta:{beta}}} train.learning_rate={rate}"
        for beta in (0.1, 0.5)
        for rate in ("1e-5", "2e-5")
    ]
    choices = choose(Select(**OVER_RATES), points, values(points, *(4 * [0.5] + 2 * [0.4] + 2 * [0.6])))
    assert [(one.settings["train.learning_rate"], len(one.candidates)) for one in choices] == [(1e-5, 2), (2e-5, 2)]
    models = points_of(written(sweep={"model_name_or_path": ["one/m", "other/m"], "seed": [0, 1]}))
    assert len({point.label for point in models}) == 2 and models[0].label == models[1].label
    over_models = choose(Select(**{**OVER_RATES, "over": ["model_name_or_path"]}), models, values(models, 0.1, 0.2, 0.3, 0.4))
    assert [(one.settings["model_name_or_path"], one.by_seed) for one in over_models[0].candidates] == [
        *(("other/m", {0: 0.3, 1: 0.4}), ("one/m", {0: 0.1, 1: 0.2}))
    ]


def test_of_losses_the_lowest_is_chosen(written):
    points = points_of(written(sweep={"train.learning_rate": [1e-5, 2e-5]}))
    [choice] = choose(Select(**{**OVER_RATES, "by": "eval_loss"}), points, values(points, 0.4, 0.3))
    assert (choice.name, choice.settings) == ("bnf", {"train.learning_rate": 2e-5})


def test_settings_without_every_seed_do_not_count_and_unequal_budgets_are_said(written):
    points = points_of(written(sweep=RATES))
    choices = choose(Select(**OVER_RATES), points, values(points, 0.9, None, 0.1, 0.1, 0.5, 0.5, 0.6, 0.6))
    assert choices[0].settings == {"train.learning_rate": 2e-5}, "0.9 is one seed's alone"
    said = how_chosen(Select(**OVER_RATES), choices)
    assert said.endswith("not all among equally many settings, so they were not tuned alike: bnf among 1, dpo among 2")
    assert choose(Select(**OVER_RATES), points, {}) == []
    assert how_chosen(Select(**OVER_RATES), []).endswith("no settings had a value for every seed")


def test_what_all_runs_have_alike_names_no_contest(written):
    axes = {"train.objective": ["bnf", "dpo"], "train.learning_rate": [1e-5, 2e-5], "prepare.pairing": ["all"], "seed": [0, 1]}
    assert [*contests(points_of(written(sweep=axes)), ["train.learning_rate"])] == ["bnf", "dpo"]


def test_variants_of_several_objectives_compete_within_their_objective(written):
    variants = [
        {"name": "b"},
        {"name": "d1", "train.objective": "dpo"},
        {"name": "d2", "train.objective": "dpo", "train.max_steps": 9},
    ]
    found = contests(points_of(written(sweep={"variant": variants, "seed": [0, 1]})), ["variant"])
    assert {name: len(points) for name, points in found.items()} == {"bnf": 2, "dpo": 4}


def test_the_figures_are_those_of_the_policy_that_was_taken():
    steps = [{"step": step, "eval_loss": step / 10, "eval_rewards/accuracies": 1 - step / 10} for step in (0, 2, 4)]
    assert of_policy({"evaluations": steps}) == {"eval_loss": 0.4, "eval_accuracy": 0.6}
    assert of_policy({"evaluations": steps, "kept": 2}) == {"eval_loss": 0.2, "eval_accuracy": 0.8}
    assert of_policy({"evaluations": [{"step": 1, "eval_loss": 0.5}]}) == {"eval_loss": 0.5}
    assert of_policy({"evaluations": [{"step": 1, "eval_loss": float("nan"), "eval_rewards/accuracies": 0.5}]}) == {
        "eval_accuracy": 0.5
    }


def test_work_that_others_take_from_the_cache_comes_first():
    runs = [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "z"}, {"a": "2", "b": "y"}, {"a": "3", "b": "w"}]
    # The second makes 1 and y, the third 2; all that is shared is there then.
    assert shared_first(runs) == [1, 2, 0, 3, 4]


def test_work_is_the_same_where_the_key_will_be_and_another_behind_what_differs(written):
    base = {**BASE, "model_name_or_path": str(DEMONSTRATION_MODEL)}
    slow, fast = [
        work_of(build(point.recipe)) for point in points_of(written(base, sweep={"train.learning_rate": [1e-5, 2e-5]}))
    ]
    same = {name for name in slow if slow[name] == fast[name]}
    assert {"prepare", "reference", "generate/base/number_comparison"} <= same
    assert not same & {"train", "analyze", "generate/aligned/number_comparison", "report"}


def test_a_plan_counts_shared_work_once_and_evaluates_stand_ins_for_what_will_be_chosen(written, tmp_path, monkeypatch):
    def preflight(recipe, *_):
        return [Check("pairs", "data must hold pairs" if recipe.train["objective"] == "dpo" else None)]

    monkeypatch.setattr("flows.dag.plan.preflight", preflight)
    (tmp_path / "m").mkdir()
    base = {**BASE, "model_name_or_path": str(tmp_path / "m")}
    plan = make_sweep_plan(tmp_path / "home", load_sweep(written(base, sweep=RATES, select=OVER_RATES)))
    found = sweep_outlook(plan)
    assert len(plan.points) == 8 and found.evaluated == 4, "both seeds of both objectives with one rate"
    stages = {name: (stage.tasks, stage.distinct) for name, stage in found.stages.items()}
    assert stages["train"] == (8, 8) and stages["prepare"] == (8, 2) and stages["resolve"] == (8, 1)
    # The base model answers once; its four policies once each.
    assert stages["generate"] == (8, 5) and stages["report"] == (4, 4)
    assert found.stages["train"].to_run == 8 and list(found.stages) == sorted(found.stages, key=in_order().index)
    settings = "train.objective=dpo train.learning_rate=1e-5 seed=0"
    assert plan.problems() == [f"4 of 8 runs, such as {settings}: data must hold pairs"] and not plan.all_refused

    trained = trained_only(plan.plans[0])
    assert [node.stage for node in trained.nodes] == ["resolve", "prepare", "reference", "train"]
    assert trained.options.only == ["resolve", "prepare", "reference", "train"] and devices_needed(trained) == 1


def test_checks_refuse_only_runs_that_are_not_complete(written, tmp_path, monkeypatch):
    """As where a machine has fewer devices by now: the page of a complete sweep can be drawn all the same."""
    monkeypatch.setattr("flows.dag.plan.preflight", lambda *_: [Check("devices", "there must be more devices")])
    (tmp_path / "m").mkdir()
    sweep = load_sweep(written({**BASE, "model_name_or_path": str(tmp_path / "m")}, sweep=RATES))
    names = [point.recipe.name for point in make_points(sweep)]
    monkeypatch.setattr("flows.dag.sweep_plan.is_result", lambda plan, run: run.record.recipe in complete)
    complete = names[:6]
    plan = make_sweep_plan(tmp_path / "home", sweep)
    assert plan.all_refused and plan.problems() == ["there must be more devices"], "there are no runs"
    for point in make_points(sweep):
        start_run(tmp_path / "home", point.recipe, "x").end("completed")
    plan = make_sweep_plan(tmp_path / "home", sweep)
    settings = "train.objective=dpo train.learning_rate=2e-5 seed=0"
    assert plan.problems() == [f"2 of 8 runs, such as {settings}: there must be more devices"] and not plan.all_refused
    complete = names
    assert make_sweep_plan(tmp_path / "home", sweep).problems() == []


def test_a_recipe_is_no_sweep_and_a_sweep_no_recipe(written):
    with pytest.raises(RecipeError, match="SWEEP must be a file with `base` and `sweep`"):
        load_sweep("flows/recipes/quickstart.yaml")
    with pytest.raises(RecipeError, match="run it with `bnf sweep`"):
        load_recipe(written(sweep=RATES))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_projects_sweeps_are_sweeps(path):
    assert make_points(load_sweep(str(path)))


def test_the_sweep_of_the_documents_is_one(tmp_path):
    example = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "sweeps.md").read_text(), re.S)[0]
    (tmp_path / "shown.yaml").write_text(
        example.replace("../quickstart.yaml", str(ROOT / "flows" / "recipes" / "quickstart.yaml"))
    )
    assert len(points_of(str(tmp_path / "shown.yaml"))) == 18


def test_the_quick_starts_sweep_has_one_data_set_for_all_objectives():
    sweep = load_sweep(EXAMPLE)
    points = make_points(sweep)
    assert len(points) == 30 and {point.objective for point in points} == {"bnf", "dpo", "simpo", "kto", "sft"}
    of_a_seed = [point for point in points if point.recipe.seed == 2]
    works = [work_of(build(point.recipe)) for point in of_a_seed]
    check_choice(sweep.select, of_a_seed, works)
    assert len({work["prepare"] for work in works}) == 1 and len({work["train"] for work in works}) == 10
