"""The DAG of a recipe: which setting belongs to which stage, and in what order tasks run."""

import itertools

import pytest

from evaluation.benchmarks import BENCHMARKS
from flows.dag.graph import build
from flows.dag.parts import plugin
from flows.errors import RecipeError
from flows.recipe.config import load_recipe, make_recipe
from tasks.keys import ROOT

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
        ("train.objective=sft train.label_weighting=none", {"train"}),
        ("train.objective=kto", {"reference", "train"}),
        ("seed=1", {"sample", "prepare", "train"}),
        ("sample.temperature=1.0", {"sample"}),
        ("judge.demonstration=false", {"judge/arena_hard"}),
        ("evaluation.benchmarks.crux.limit=3", {f"{s}/{m}/crux" for s in ("generate", "score") for m in ("base", "aligned")}),
    ],
)
def test_a_setting_is_part_of_the_keys_of_the_stages_that_read_it(override, changed):
    assert touched(*override.split()) == changed


@pytest.mark.parametrize(("kind", "changed"), [("cpu", set()), ("cuda", {"reference", "train", "analyze"})])
def test_kernels_of_attention_count_where_there_is_a_choice(kind, changed, monkeypatch):
    monkeypatch.setattr("bnf.model.device.device_kind", lambda: kind)
    assert touched("train.attention=blocks") == changed
    node = nodes("train.attention=blocks")["reference"]
    assert {**node.settings, **node.unkeyed}["attention"] == "blocks"


def test_what_the_tasks_share_of_a_machine_is_part_of_no_key_and_not_of_the_reports_either():
    assert nodes() == nodes("resources.devices=2", "resources.cpu_slots=3")


ROUNDS = ("sample.rounds=3", "sample.prompts_per_round=8", "sample.epochs_per_round=2")


def test_rounds_feed_each_policy_to_the_next():
    found = nodes(*ROUNDS)
    assert found["sample/round1"].inputs == {"model": "resolve/base"} and found["sample/round3"].inputs == {
        "model": "train/round2"
    }
    # A fixed reference is the base model; a round that doesn't start there says so to the training.
    assert found["reference/round3"].inputs == {"model": "resolve/base", "data": "prepare/round3"}
    assert "reference_model" not in found["train/round1"].inputs
    assert found["train/round3"].inputs == {
        "model": "train/round2",
        "reference_model": "resolve/base",
        "data": "prepare/round3",
        "reference": "reference/round3",
    }
    assert found["generate/aligned/gsm8k"].inputs == {"model": "train/round3"}
    assert found["analyze"].inputs == {"policy": "train/round3", "data": "prepare/round3", "reference": "reference/round3"}
    assert set(found["contamination/gsm8k"].inputs.values()) == {f"prepare/round{number}" for number in (1, 2, 3)}
    assert all(found[f"train/round{number}"].settings["num_train_epochs"] == 2 for number in (1, 2, 3))
    order = list(found)
    for node in found.values():
        assert all(order.index(name) < order.index(node.id) for name in node.inputs.values())


def test_a_reference_of_each_round_is_its_own_start():
    found = nodes(*ROUNDS, "sample.reference=each_round")
    assert found["reference/round3"].inputs["model"] == "train/round2" == found["train/round3"].inputs["model"]
    assert "reference_model" not in found["train/round3"].inputs


def test_a_later_round_changes_nothing_of_the_first():
    one, three = nodes("sample.rounds=2", "sample.prompts_per_round=8"), nodes(*ROUNDS[:2])
    for name in ("sample/round1", "label/round1", "train/round1", "sample/round2"):
        assert one[name].settings == three[name].settings


def test_offline_groups_are_prepared_once_and_mixed_into_every_round():
    data = "data={source: pairs, path: data/samples/pairs.jsonl}"
    found = nodes(*ROUNDS, "sample.offline_mix=0.25", data)
    assert found["prepare/offline"].inputs == {"model": "resolve/base"}
    assert {found[f"prepare/round{number}"].inputs["offline"] for number in (1, 2, 3)} == {"prepare/offline"}
    assert [found[f"prepare/round{number}"].settings["prepare"]["round"] for number in (1, 2, 3)] == [1, 2, 3]


def test_prompts_that_no_benchmark_scores_need_another_labeler(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Hello"}\n')
    given = ("sample.source=prompts", f"sample.path={file}", "sample.num_prompts=1")
    with pytest.raises(RecipeError, match=r"label.labeler must be judge, reward_model or ratings for the prompts of prompts"):
        nodes(*given)
    found = nodes(*given, f"label={{labeler: judge, judge: {{model_name_or_path: {MODEL}}}}}")
    assert found["sample"].files == {"prompts": file} and found["label"].settings["benchmark"] is None
    with pytest.raises(RecipeError, match=r"sample.path must say where the source prompts reads"):
        nodes("sample.source=prompts")


def test_ratings_made_elsewhere_are_of_one_round(tmp_path):
    (tmp_path / "rated.csv").write_text("id,completion,rating\n")
    given = f"label={{labeler: ratings, path: {tmp_path / 'rated.csv'}}}"
    assert "rated.csv" in str(nodes(given)["label"].files["file"])
    with pytest.raises(RecipeError, match=r"sample.rounds must be 1 for the labeler ratings, got 3"):
        nodes(given, *ROUNDS)


def test_prompts_at_a_url_are_keyed_by_what_its_server_says_of_them():
    import fsspec

    with fsspec.open("memory://prompts.jsonl", "w") as file:
        file.write('{"question": "?", "answer": "#### 1"}\n')
    given = ("sample.source=gsm8k", "sample.path=memory://prompts.jsonl", "sample.num_prompts=1")
    before = nodes(*given)["sample"].settings
    with fsspec.open("memory://prompts.jsonl", "w") as file:
        file.write('{"question": "another", "answer": "#### 2"}\n')
    after = nodes(*given)["sample"].settings
    assert before["path"] == after["path"] and before["version"] != after["version"]


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
    assert sessions == ["generate/base", "train", "generate/aligned", "judge/judge"]


def together(session, *overrides):
    return [name for name, node in nodes(*overrides).items() if node.session == session]


def test_the_base_models_evaluation_follows_its_samples_in_one_engine():
    names = list(nodes())
    shared = together("generate/base")
    assert shared[0] == "sample" and "generate/base/arena_hard" in shared and "score/base/gsm8k" not in shared
    assert names[names.index("sample") :][: len(shared)] == shared


@pytest.mark.parametrize(
    "override",
    ["sample.max_model_len=512", "evaluation.num_replicas=2", "sample.engine=transformers"],
)
def test_an_engine_that_is_loaded_otherwise_is_another_process(override):
    assert nodes(override)["sample"].session is None
    names = list(nodes(override))
    assert names.index("generate/base/gsm8k") > names.index("train")


def test_later_rounds_sample_by_an_engine_of_their_own():
    found = nodes(*ROUNDS)
    assert [found[f"sample/round{number}"].session for number in (1, 2, 3)] == ["generate/base", None, None]


def test_a_reference_pass_its_training_and_the_analysis_share_a_process():
    assert together("train") == ["reference", "train", "analyze"]
    found = nodes(*ROUNDS)
    rounds = [[found[f"{stage}/round{number}"].session for stage in ("reference", "train")] for number in (1, 2, 3)]
    assert rounds == [[f"train/round{number}"] * 2 for number in (1, 2, 3)]
    assert found["analyze"].session == "train/round3"


def test_labels_made_elsewhere_need_their_file(tmp_path):
    (tmp_path / "rated.csv").write_text("id,completion,rating\n")
    assert (
        nodes("label.labeler=ratings", f"label.path={tmp_path / 'rated.csv'}")["label"].files["file"] == tmp_path / "rated.csv"
    )
    with pytest.raises(RecipeError, match=r"label\.path must name the file with the labels for the labeler ratings, got none"):
        nodes("label.labeler=ratings")
    with pytest.raises(RecipeError, match=r"label\.path must be left out for the labeler verifier"):
        nodes("label.path=x")


def test_benchmarks_keep_the_recipes_order():
    scored = [node.benchmark for node in nodes().values() if node.stage == "score" and node.role == "base"]
    assert scored == ["number_comparison", "gsm8k", "crux", "mmlu_redux"]


def test_a_recipe_without_training_evaluates_the_model_alone():
    recipe = make_recipe(
        {"name": "e", "model_name_or_path": MODEL, "evaluation": {"benchmarks": {"gsm8k": {"source": "sample"}}}}
    )
    assert [node.id for node in build(recipe)] == ["resolve/base", "generate/base/gsm8k", "score/base/gsm8k", "report"]


def evaluated(**evaluation):
    recipe = make_recipe({"name": "e", "model_name_or_path": MODEL, "evaluation": evaluation})
    return {node.id: node for node in build(recipe)}


def test_lm_evals_tasks_share_the_models_engine_and_its_cross_checks_read_scores(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine")
    settings = {"benchmarks": {"gsm8k": {"source": "sample"}, "crux": {"source": "sample"}}, "cross_check": True}
    found = evaluated(**settings, lm_eval=["ifeval"], lm_eval_include_path=str(tmp_path))
    assert list(found) == [
        "resolve/base",
        *("generate/base/gsm8k", "generate/base/crux", "lm_eval/base/ifeval"),
        *("score/base/gsm8k", "cross_check/base/gsm8k", "score/base/crux"),  # lm-eval would execute what CRUX's model wrote
        "report",
    ]
    assert found["lm_eval/base/ifeval"].session == found["generate/base/gsm8k"].session
    assert found["cross_check/base/gsm8k"].inputs["scores"] == "score/base/gsm8k"
    assert set(found["report"].inputs) == set(found) - {"report"}


def test_a_task_definitions_content_is_part_of_its_key_and_its_place_is_not(tmp_path):
    def settings(folder, text):
        folder.mkdir()
        (folder / "mine.yaml").write_text(text)
        return evaluated(lm_eval=["mine"], lm_eval_include_path=str(folder))["lm_eval/base/mine"].settings

    first, moved, changed = (settings(tmp_path / name, text) for name, text in [("a", "x"), ("b", "x"), ("c", "y")])
    assert first == moved != changed


def test_what_decides_a_benchmarks_scores_is_in_their_key():
    found = evaluated(benchmarks={"math": {"source": "sample"}, "crux": {"source": "sample"}})
    assert found["score/base/math"].plugins == ["evaluation.benchmarks.math:score,second_metrics,GROUPS"]
    assert found["score/base/crux"].plugins == ["evaluation.benchmarks.crux:score"]


def test_a_hub_id_is_resolved_later_and_a_mistyped_folder_is_not_a_hub_id():
    recipe = make_recipe({"name": "e", "model_name_or_path": "someone/model"})
    assert build(recipe)[0].files == {}
    for path in ("./nowhere/model", "/nowhere", "models/none", "nowhere"):
        with pytest.raises(RecipeError, match="must exist"):
            build(make_recipe({"name": "e", "model_name_or_path": path}))


def test_names_may_have_hyphens():
    assert plugin(BENCHMARKS, "mmlu-redux", "evaluation.benchmarks") == "mmlu_redux"
    recipe = make_recipe({"name": "e", "model_name_or_path": MODEL, "evaluation": {"benchmarks": ["mmlu-redux"]}})
    assert build(recipe)[1].id == "generate/base/mmlu_redux"


def test_an_unknown_name_lists_what_there_is_and_where_to_add_one():
    with pytest.raises(
        RecipeError,
        match=r"benchmarks must be among .*gsm8k.* got 'gsm9k'; did you mean gsm8k\? .*evaluation/benchmarks/gsm9k.py",
    ):
        plugin(BENCHMARKS, "gsm9k", "evaluation.benchmarks")


def test_a_benchmark_that_nothing_scores_is_refused_by_what_it_lacks(monkeypatch):
    monkeypatch.delattr("evaluation.benchmarks.gsm8k.score")
    recipe = make_recipe({"name": "e", "model_name_or_path": MODEL, "evaluation": {"benchmarks": ["gsm8k"]}})
    with pytest.raises(
        RecipeError, match=r"benchmarks must have score\(\) for a rule, or FORMS for a judge, got neither in gsm8k's"
    ):
        build(recipe)


def test_a_stage_that_feeds_no_section_of_the_report_is_refused_before_it_runs(monkeypatch):
    monkeypatch.setattr("tasks.stages.score.REPORT", "scors")
    recipe = make_recipe({"name": "e", "model_name_or_path": MODEL, "evaluation": {"benchmarks": ["gsm8k"]}})
    with pytest.raises(
        ValueError, match=r"REPORT of score must be a section of the report \(scores, .*got 'scors'; .*inputs.py"
    ):
        build(recipe)


PPO = ("train.objective=ppo", "train.label_weighting=none")


def test_a_later_round_caches_the_policy_that_it_starts_from_beside_the_reference():
    """In the first round, and where each round has its own reference, one artifact is both."""
    found = nodes(*ROUNDS, *PPO)
    assert [name for name in found if name.startswith("reference/")] == [
        *("reference/round1", "reference/round2", "reference/old-round2", "reference/round3", "reference/old-round3"),
    ]
    old, fixed = found["reference/old-round3"], found["reference/round3"]
    assert (old.inputs["model"], fixed.inputs["model"]) == ("train/round2", "resolve/base")
    assert old.settings == fixed.settings and old.session == fixed.session
    assert found["train/round3"].inputs["old"] == old.id and found["train/round3"].inputs["reference"] == fixed.id
    assert "old" not in found["train/round1"].inputs
    each = nodes(*ROUNDS, *PPO, "sample.reference=each_round")
    assert not any("old" in name for name in each) and "old" not in each["train/round3"].inputs
    # Whoever needs neither ratios nor k1 has no second pass, and no other key than before.
    assert not any("old" in name for name in nodes(*ROUNDS))
    assert not any("old" in name for name in nodes(*ROUNDS, "train.objective=reinforce", "train.label_weighting=none"))


def test_every_sample_is_kept_for_the_objectives_that_need_it_alone():
    assert "every_sample" not in nodes()["prepare"].settings["prepare"]
    assert nodes(*PPO)["prepare"].settings["prepare"]["every_sample"] is True
    assert touched(*PPO) == {"prepare", "train"}
