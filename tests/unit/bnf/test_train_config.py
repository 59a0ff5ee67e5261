import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from bnf.config import REFERENCE_FIELDS, TrainConfig
from bnf.objectives import load_objective, objective_names


def test_config_is_checked_without_torch() -> None:
    code = (
        "import sys, bnf\n"
        "from bnf.config import TrainConfig\n"
        "from bnf.objectives import load_objective, objective_names\n"
        "[load_objective(name) for name in objective_names()]\n"
        "TrainConfig()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_round_trip_and_reference_fields() -> None:
    config = TrainConfig(objective="dpo", objective_options={"beta": 0.05}, label_weighting={"preferred": 1, "dispreferred": 0})
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert set(REFERENCE_FIELDS) <= set(config.to_dict())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rte": 1e-6}, "did you mean 'learning_rate'"),
        ({"per_device_train_batch_size": 4}, "must be left out, got 4; set global_batch_size"),
        ({"gradient_accumulation_steps": 4}, "must be left out, got 4; set global_batch_size"),
        ({"learning_rate": "5e-7"}, "learning_rate must be a number, got '5e-7'; in YAML"),
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
        ({"dev_prompts": 0}, "dev_prompts must be at least 1, got 0"),
        ({"nproc_per_node": 0}, "nproc_per_node must be at least 1, got 0"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type must be one of linear, cosine"),
        ({"length_normalization": "pair"}, "length_normalization must be own or pair_min, got 'pair'"),
        ({"label_weighting": "half"}, "label_weighting must be none, balanced or a mapping, got 'half'"),
        ({"label_weighting": {"chosen": 1}}, "label_weighting must name preferred and dispreferred"),
        ({"label_weighting": {"preferred": 0, "dispreferred": 0}}, "label_weighting must hold numbers"),
        ({"objective": "bfn"}, r"objective must be one of .*bnf.*, got 'bfn'; did you mean 'bnf'\? .*bnf/objectives/bfn.py"),
        ({"objective": "_base"}, "objective must be one of"),
        ({"objective_options": {"beta": 1}}, "must be options of bnf, got 'beta'; it has no options"),
        ({"objective": "dpo", "objective_options": {"bta": 1}}, "must be options of dpo, got 'bta'; its options are beta"),
        ({"objective": "dpo", "objective_options": {"beta": 0}}, r"objective_options.beta must be a number above 0, got 0"),
    ],
)
def test_errors_name_key_rule_value_and_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(values)


def test_every_file_of_the_folder_is_an_objective() -> None:
    assert {"bnf", "dpo", "sft", "nll_signed"} <= set(objective_names())
    for name in objective_names():
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
