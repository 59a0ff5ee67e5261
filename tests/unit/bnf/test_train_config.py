import re
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from bnf.objectives import OBJECTIVES, load_objective
from bnf.plugins import names
from bnf.training.config import READ_BY_SOME, REFERENCE_FIELDS, TrainConfig


def test_config_is_checked_without_torch() -> None:
    code = (
        "import sys, bnf\n"
        "from bnf.training.config import TrainConfig\n"
        "from bnf.objectives import OBJECTIVES, load_objective\nfrom bnf.plugins import names\n"
        "[load_objective(name) for name in names(OBJECTIVES)]\n"
        "TrainConfig()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_round_trip_and_reference_fields() -> None:
    config = TrainConfig(objective="kto", objective_options={"beta": 0.05}, label_weighting={"preferred": 1, "dispreferred": 0})
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert set(REFERENCE_FIELDS) <= set(config.to_dict())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rte": 1e-6}, "did you mean learning_rate"),
        ({"per_device_train_batch_size": 4}, "must be left out, got 4; set global_batch_size"),
        ({"gradient_accumulation_steps": 4}, "must be left out, got 4; set global_batch_size"),
        ({"fsdp": "full_shard"}, "train.fsdp must be left out, got 'full_shard'; set sharding .full is FSDP's FULL_SHARD"),
        ({"deepspeed": "ds.json"}, "train.deepspeed must be left out, got 'ds.json'; set sharding .* DeepSpeed's ZeRO-3"),
        ({"num_processes": 2}, r"train.num_processes must be left out, got 2; set nproc_per_node .* and num_nodes"),
        ({"gpus": 8}, "train.gpus must be left out, got 8; set nproc_per_node"),
        ({"master_addr": "a"}, "train.master_addr must be left out, got 'a'; set rdzv_endpoint=HOST:PORT"),
        ({"tensor_parallel_size": 2}, "train.tensor_parallel_size must be left out, got 2; .* set sharding=full"),
        ({"sharding": "FULL_SHARD"}, "sharding must be one of none, full, hybrid, got 'FULL_SHARD'; write train.sharding=full"),
        ({"sharding": "zero-3"}, "sharding must be .*, got 'zero-3'; write train.sharding=full"),
        ({"sharding": "hybrid_shard"}, "sharding must be .*; write train.sharding=hybrid"),
        ({"sharding": "ddp"}, "sharding must be .*; write train.sharding=none"),
        ({"sharding": True}, "sharding must be one of none, full, hybrid, got true; leave it out for the default"),
        ({"weights": "bfloat16"}, "weights must be one of fp32, bf16, got 'bfloat16'; write train.weights=bf16"),
        (
            {"cpu_offload": True},
            "cpu_offload must be left at false where sharding is none.*, got true; write train.cpu_offload=false, or leave it out; "
            "train.sharding=full makes some",
        ),
        ({"load_in_4bit": True}, "load_in_4bit must be left at false where lora_r is 0 .*; train.lora_r=16 trains adapters"),
        (
            {"rdzv_endpoint": "a:1"},
            "rdzv_endpoint must be left out where num_nodes is 1 .*; leave it out; or raise train.num_nodes",
        ),
        ({"learning_rate": "5e-7 or so"}, "learning_rate must be a number, got '5e-7 or so'; write one such as 0.1 or 5e-7"),
        ({"learning_rate": 0}, "learning_rate must be positive, got 0"),
        ({"bf16": "false"}, "bf16 must be true or false, got 'false'"),
        ({"max_steps": 0}, "max_steps must be positive or -1, got 0"),
        ({"global_batch_size": 2.5}, "global_batch_size must be a whole number, got 2.5"),
        ({"warmup_ratio": 10}, r"warmup_ratio must lie in \[0, 1\), got 10"),
        ({"save_steps": 2.5}, "save_steps must be a whole number of steps, or a share"),
        ({"eval_steps": 0}, "eval_steps must be a whole number of steps, or a share"),
        ({"lora_r": -1}, "lora_r must be at least 0, got -1"),
        ({"lora_r": 2.5}, "lora_r must be a whole number, got 2.5"),
        ({"lora_dropout": 1}, r"lora_dropout must lie in \[0, 1\), got 1"),
        ({"lora_target_modules": []}, r"lora_target_modules must be a name or a list of names, got \[\]"),
        ({"report_to": "all"}, "report_to must name the loggers, got 'all'"),
        ({"dev_prompts": -1}, "dev_prompts must be at least 0, got -1; 0 draws no samples"),
        ({"nproc_per_node": 0}, "nproc_per_node must be at least 1, got 0"),
        ({"lr_scheduler_type": "cosin"}, r"lr_scheduler_type must be one of linear, cosine.*; did you mean cosine\?"),
        ({"keep_best": "eval_acc"}, r"keep_best must be one of .*, got 'eval_acc'; did you mean eval_accuracy\?"),
        (
            {"length_normalization": "pair"},
            "length_normalization must be one of own, pair_min, got 'pair'; did you mean pair_min",
        ),
        ({"label_weighting": "half"}, "label_weighting must be none, balanced or a mapping, got 'half'"),
        ({"label_weighting": {"chosen": 1}}, "label_weighting must name preferred and dispreferred"),
        ({"label_weighting": {"preferred": 0, "dispreferred": 0}}, "label_weighting must hold numbers"),
        ({"objective": "bfn"}, r"objective must be one of .*bnf.*, got 'bfn'; did you mean bnf\? .*bnf/objectives/bfn.py"),
        ({"objective": "_base"}, "objective must be one of"),
        ({"objective_options": {"beta": 1}}, "must be options of bnf, got 'beta'; it has no options"),
        ({"objective": "dpo", "objective_options": {"bta": 1}}, "must be options of dpo, got 'bta'; its options are beta"),
        ({"objective": "dpo", "objective_options": {"beta": 0}}, r"objective_options.beta must be a number above 0, got 0"),
    ],
)
def test_errors_name_key_rule_value_and_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize("name", names(OBJECTIVES))
@pytest.mark.parametrize(
    ("key", "value", "default"),
    [
        ("label_weighting", "balanced", "none"),
        ("label_weighting", {"preferred": 1, "dispreferred": 0.5}, "none"),
        ("length_normalization", "pair_min", "own"),
    ],
)
def test_what_an_objective_does_not_read_is_refused_by_name(name: str, key: str, value: Any, default: str) -> None:
    TrainConfig.from_dict({"objective": name, key: default})
    if key in load_objective(name).reads:
        TrainConfig.from_dict({"objective": name, key: value})
        return
    rule = (
        rf"^{key} must be left at {default} for objective '{name}', which doesn't read it, got .*; write train.{key}={default}"
    )
    with pytest.raises(ValueError, match=rule):
        TrainConfig.from_dict({"objective": name, key: value})


def test_objectives_that_weigh_labels_are_those_of_the_docs() -> None:
    readers = {key: {name for name in names(OBJECTIVES) if key in load_objective(name).reads} for key in READ_BY_SOME}
    assert readers["label_weighting"] == {"bnf", "bnf_contrast", "kto", "nll_signed"}
    assert readers["length_normalization"] == {"bnf", "bnf_contrast", "nll_signed"}


@pytest.mark.parametrize(
    ("unread", "read"),
    [
        ({"lora_alpha": 64}, {"lora_r": 4}),
        ({"lora_dropout": 0.1}, {"lora_r": 4}),
        ({"lora_target_modules": ["q_proj"]}, {"lora_r": 4}),
        ({"warmup_ratio": 0.2, "lr_scheduler_type": "constant"}, {"lr_scheduler_type": "constant_with_warmup"}),
        ({"num_train_epochs": 3, "max_steps": 10}, {"max_steps": -1}),
        ({"dev_max_new_tokens": 32, "dev_prompts": 0}, {"dev_prompts": 1}),
        ({"dev_max_new_tokens": 32, "keep_best": "eval_loss"}, {"dev_prompts": 1}),
    ],
)
def test_what_another_setting_leaves_unread_is_refused_too(unread: dict[str, Any], read: dict[str, Any]) -> None:
    (key, value), *_ = unread.items()
    with pytest.raises(ValueError, match=rf"^{key} must be left at .* got {re.escape(repr(value))}"):
        TrainConfig(**unread)
    TrainConfig(**(unread | read))


def test_no_warm_up_is_what_a_constant_schedule_has() -> None:
    TrainConfig(lr_scheduler_type="constant", warmup_ratio=0.0)


def test_settings_of_evaluations_need_dev_groups() -> None:
    for key, value in (("eval_steps", 0.5), ("dev_prompts", 8), ("dev_max_new_tokens", 32)):
        with pytest.raises(ValueError, match=rf"^{key} must be left (at|out) .*where there are no dev groups .* got {value}"):
            TrainConfig(**{key: value}).check_unevaluated()
    TrainConfig().check_unevaluated()


def test_numbers_are_the_same_wherever_they_stand() -> None:
    given = {
        **{
            "objective": "kto",
            "objective_options": {"beta": 0.05, "desirable_weight": 2},
            "max_steps": 1e3,
            "save_steps": 2e2,
        },
        **{"label_weighting": {"preferred": 1, "dispreferred": 1}, "global_batch_size": 16.0, "weight_decay": 1e-2},
    }
    config = TrainConfig.from_dict(given)
    plain = {
        **{
            "objective": "kto",
            "objective_options": {"beta": 0.05, "desirable_weight": 2.0},
            "max_steps": 1000,
            "save_steps": 200,
        },
        **{"label_weighting": {"preferred": 1.0, "dispreferred": 1.0}, "global_batch_size": 16, "weight_decay": 0.01},
    }
    assert repr(config) == repr(TrainConfig(**plain))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "1e-5", "8", "nan", True, None, [1]])
@pytest.mark.parametrize(
    "key", ["learning_rate", "num_train_epochs", "weight_decay", "eval_steps", "lora_dropout", "max_grad_norm"]
)
def test_what_is_no_number_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be a number, got"):
        TrainConfig.from_dict({key: value})


@pytest.mark.parametrize(
    "values",
    [
        {"objective": 7},
        {"objective_options": [1]},
        {"objective_options": 5},
        {"objective": "dpo", "objective_options": {"beta": float("inf")}},
        {"objective": "kto", "objective_options": {"desirable_weight": 0, "undesirable_weight": 0}},
        {"label_weighting": {"preferred": 1, "dispreferred": float("nan")}},
        {"label_weighting": ["balanced"]},
        {"optim": 3},
        {"lr_scheduler_type": ["cosine"]},
    ],
)
def test_other_values_of_the_wrong_kind_are_one_message(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^[a-z_.]+ must .*, got .*; "):
        TrainConfig.from_dict(values)


def test_every_file_of_the_folder_is_an_objective() -> None:
    assert {"bnf", "dpo", "sft", "nll_signed"} <= set(names(OBJECTIVES))
    for name in names(OBJECTIVES):
        assert type(load_objective(name)).__module__ == f"bnf.objectives.{name}"
        # What it computes, and where that is published.
        assert import_module(f"bnf.objectives.{name}").__doc__


def test_a_whole_number_is_the_same_setting_as_its_float() -> None:
    first, second = (TrainConfig.from_dict({"weight_decay": value, "save_steps": 1}).to_dict() for value in (0, 0.0))
    assert repr(first) == repr(second) and first["save_steps"] == 1 and isinstance(first["save_steps"], int)


@pytest.mark.parametrize(
    ("settings", "num_groups", "evaluations"),
    [
        # Before the first step, three times on the way, after the last.
        ({}, 1280, 5),
        ({}, None, 5),
        ({"eval_steps": 4}, 1280, 4),
        ({"eval_steps": 5}, 1280, 3),
        ({"eval_steps": 100}, 1280, 2),
        ({"eval_steps": 5}, None, None),
        ({"eval_steps": 5, "max_steps": 11}, None, 4),
        ({"num_train_epochs": 2, "eval_steps": 5}, 1280, 5),
        # One step alone.
        ({}, 20, 2),
    ],
)
def test_number_of_evaluations(settings: dict[str, Any], num_groups: int | None, evaluations: int | None) -> None:
    assert TrainConfig(**settings).num_evaluations(num_groups) == evaluations
