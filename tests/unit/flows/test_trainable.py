"""What only training would refuse is found by the preflight where it can be, and else before anything is computed for it."""

import json
from types import SimpleNamespace

import pytest

from bnf.data.groups import Completion, PromptGroup, write_groups
from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.dag.trainable import model_problem
from flows.errors import RecipeError
from flows.recipe.config import load_recipe, make_recipe
from flows.runner import Runner
from tasks.nodes import Forecast, Node
from tasks.resources import Devices
from tasks.store import Artifact

PAIRS = "flows/recipes/pairs.yaml"


@pytest.fixture(autouse=True)
def _enough_memory(monkeypatch):
    """What else the machine does has no say in what is found."""
    for module in ("preflight", "trainable"):
        monkeypatch.setattr(f"flows.dag.{module}.available_memory", lambda: None)


@pytest.fixture
def all_negative(tmp_path):
    write_groups(tmp_path / "prepared", [PromptGroup(f"g{n}", (3, n), (Completion((5, 2), -1),)) for n in range(6)])
    return Artifact("prepare", "key", "print", tmp_path / "prepared")


def problems(tmp_path, *overrides, prepared=None):
    recipe = load_recipe(PAIRS, overrides)
    forecasts = [
        Forecast(node, None, True, prepared, []) if node.id == "prepare" and prepared else Forecast(node, None, False, None, [])
        for node in build(recipe)
    ]
    return [check.problem for check in preflight(recipe, forecasts, tmp_path) if check.problem]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("train.lora_r=4", "train.lora_target_modules=[q_proj, v_porj]"),
            "train.lora_target_modules must name modules of the model",
        ),
        (("train.lora_r=4", "train.lora_target_modules=q_proj"), "any other text is a regular expression of whole names"),
        (
            ("train.lora_r=4", "train.lora_target_modules=[lm_head]"),
            "train.lora_target_modules must leave out embeddings and head",
        ),
        (("train.optim=adam",), "train.optim must be an optimizer of transformers that is installed here, got 'adam'"),
        (("train.optim=adamw_8bit",), "got 'adamw_8bit'"),
        (("train.length_normalization=pair_min",), "prepare.pairing must be best_worst or all for pair_min, got none"),
    ],
)
def test_before_anything_is_prepared(tmp_path, monkeypatch, overrides, message):
    from transformers import trainer_optimizer

    monkeypatch.setattr(trainer_optimizer, "is_bitsandbytes_available", lambda: False)
    (problem,) = problems(tmp_path, *overrides)
    assert message in problem and "\n" not in problem


def test_what_can_be_trained_passes(tmp_path):
    assert problems(tmp_path, "train.lora_r=4", "train.gradient_checkpointing=true", "prepare.dev_fraction=0.1") == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("train.label_weighting={preferred: 1, dispreferred: 0}",),
            "got 0 preferred completions of weight 1 and 6 dispreferred",
        ),
        (("train.objective=sft",), "groups must hold something for objective 'sft' to learn from"),
        (("train.objective=rwr",), "train.objective=rwr must have scores, got"),
        (("train.objective=dpo", "prepare.pairing=all"), "groups must hold pairs for objective 'dpo', got none"),
        (
            ("train.nproc_per_node=8", "train.global_batch_size=8"),
            "train.nproc_per_node must be at most the 6 rows that the data make, got 8",
        ),
        (("train.max_tokens_per_row=3",), "train.max_tokens_per_row must hold every group, got 3 while the longest group"),
    ],
)
def test_where_the_groups_are_prepared_already(tmp_path, all_negative, overrides, message):
    (problem,) = problems(tmp_path, *overrides, prepared=all_negative)
    assert message in problem
    assert problems(tmp_path, prepared=all_negative) == []


def runner(recipe, allowed=("reference", "train")):
    store = SimpleNamespace(fetch=lambda artifact: artifact.path)
    selection = SimpleNamespace(allowed=frozenset(allowed))
    plan = SimpleNamespace(nodes=build(recipe), selection=selection, store=store, recipe=recipe)
    return Runner(plan, None, None, None, {})


def test_groups_are_looked_at_as_soon_as_they_are_there(all_negative):
    """Before the reference pass, not after it; and not where no training follows."""
    recipe = load_recipe(PAIRS, ["train.label_weighting={preferred: 1, dispreferred: 0}"])
    node = {node.id: node for node in build(recipe)}["reference"]
    with pytest.raises(RecipeError, match="got 0 preferred completions of weight 1"):
        runner(recipe)._check_training(node, {"data": all_negative})
    runner(recipe, allowed=("reference",))._check_training(node, {"data": all_negative})
    runner(load_recipe(PAIRS))._check_training(node, {"data": all_negative})


def test_a_model_is_looked_at_once_it_is_fetched(tmp_path):
    manifest = {"model_path": "models/SmolLM2-135M-Instruct", "files": {}, "fingerprint": "print", "ingredients": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    resolved = Artifact("resolve", "key", "print", tmp_path)
    recipe = load_recipe(PAIRS, ["train.lora_r=2", "train.lora_target_modules=[q_porj]"])
    node = {node.id: node for node in build(recipe)}["prepare"]
    with pytest.raises(RecipeError, match=r"train\.lora_target_modules must name modules"):
        runner(recipe)._check_training(node, {"model": resolved})


def test_memory_is_looked_at_once_the_model_is_fetched_and_again_with_the_groups(tmp_path, all_negative, monkeypatch):
    """A model of a hub has no config.json here before, and how long rows get is known by the groups alone."""
    manifest = {"model_path": "models/SmolLM2-135M-Instruct", "files": {}, "fingerprint": "print", "ingredients": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    resolved = Artifact("resolve", "key", "print", tmp_path)
    recipe = load_recipe(PAIRS)
    dag = {node.id: node for node in build(recipe)}
    monkeypatch.setattr("flows.dag.memory_check.device_kind", lambda: "cpu")
    monkeypatch.setattr("flows.dag.trainable.available_memory", lambda: 10**9)
    with pytest.raises(RecipeError, match=r"memory must hold .* GiB to train \(estimated\), got 0\.9 GiB free; "):
        runner(recipe)._check_training(dag["prepare"], {"model": resolved})
    # What else is at work holds memory too, on a CPU that is shared out; on GPUs each has its own.
    said = "; or, as generate-base-x holds memory meanwhile, set resources.devices=1: then no other model is at work beside the training"
    beside = runner(recipe)
    beside.plan.nodes += [
        Node("generate", {"engine": {"name": "vllm"}}, role="base", benchmark="x"),
        Node("score", {}, role="base", benchmark="x"),
    ]
    at_work = [node.id for node in beside.plan.nodes[-2:]]
    for devices, ids, is_said in (
        (Devices(cores=[[0], [1]]), at_work, True),
        (Devices(cores=[[0], [1]]), at_work[1:], False),
        (Devices(), at_work, False),
        (Devices(gpus="01"), at_work, False),
    ):
        monkeypatch.setattr("flows.dag.resources.machine_devices", lambda wanted, found=devices: found)
        with pytest.raises(RecipeError, match=r"^memory must hold") as refused:
            beside._check_training(dag["prepare"], {"model": resolved}, ids)
        assert str(refused.value).endswith(said) == is_said == ("resources.devices" in str(refused.value))
    monkeypatch.setattr("flows.dag.trainable.available_memory", lambda: 10**10)
    looked = runner(recipe)
    looked._check_training(dag["prepare"], {"model": resolved})
    seen = []
    monkeypatch.setattr("flows.runner.memory_problem", lambda config, model, groups: seen.append(groups))
    for node in (dag["reference"], dag["train"]):
        looked._check_training(node, {"model": resolved, "data": all_negative})
    assert seen == [all_negative.path]


def test_a_recipe_whose_sequences_may_pass_longropes_bound_is_refused(tmp_path):
    """From the model's small files and `prepare.max_length` alone."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = {
        "model_type": "phi3",
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    sizes = {"vocab_size": 99, "original_max_position_embeddings": 1024, "max_position_embeddings": 4096, "dtype": "float32"}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(config | sizes | tokens | {"rope_scaling": rope}))
    assert model_problem(load_recipe(PAIRS, ("prepare.max_length=1024",)), tmp_path) is None
    problem = model_problem(load_recipe(PAIRS, ("prepare.max_length=1025",)), tmp_path)
    assert "must be of at most 1024 tokens" in problem and "set prepare.max_length to 1024 or less" in problem


def test_the_device_is_part_of_the_references_key(monkeypatch):
    recipe = load_recipe(PAIRS)
    settings = []
    for kind in ("cpu", "cuda"):
        monkeypatch.setattr("flows.dag.on_policy.device_kind", lambda kind=kind: kind)
        settings.append({node.id: node.settings for node in build(recipe)})
    assert [one["reference"]["device"] for one in settings] == ["cpu", "cuda"]
    assert {name for name in settings[0] if settings[0][name] != settings[1][name]} == {"reference"}


@pytest.mark.parametrize(
    ("sample", "train", "message"),
    [
        (
            {"epochs_per_round": 2},
            {"num_train_epochs": 3},
            "train.num_train_epochs must be left out beside sample.epochs_per_round",
        ),
        (
            {"epochs_per_round": 2},
            {"max_steps": 3},
            r"sample.epochs_per_round must be left out beside train.max_steps \(3\), got 2",
        ),
        ({}, {"dev_prompts": 8}, "^train.dev_prompts must be left out where there are no dev groups"),
        (
            {},
            {"objective": "dpo", "label_weighting": "balanced"},
            "^train.label_weighting must be left at none for objective 'dpo'",
        ),
        ({}, {"lora_alpha": 8}, "^train.lora_alpha must be left at 32 where lora_r is 0"),
    ],
)
def test_settings_that_nothing_reads_are_no_recipe(sample, train, message):
    raw = {
        "name": "r",
        "model_name_or_path": "m",
        "label": {},
        "sample": {"source": "number_comparison", **sample},
        "train": train,
    }
    with pytest.raises(RecipeError, match=message):
        make_recipe(raw)


def test_settings_of_evaluations_are_read_where_prompts_are_put_aside():
    raw = {"name": "r", "model_name_or_path": "m", "data": {"source": "pairs", "path": "p"}, "train": {"dev_prompts": 8}}
    assert make_recipe({**raw, "prepare": {"dev_fraction": 0.1}}).train["dev_prompts"] == 8
