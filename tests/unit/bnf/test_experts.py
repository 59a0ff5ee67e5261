"""Mixtures of experts: what depends on a row's other tokens, what is kept, and what a training leaves."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from bnf.data.groups import PromptGroup
from bnf.data.packing import Row
from bnf.model.attention import ATTENTION
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.training.adapters import add_adapter, merge
from bnf.training.config import TrainConfig
from bnf.training.dev import sample
from tests.unit.bnf.helpers import VOCABULARY, padded_logps, random_groups
from tests.unit.bnf.models import configuration, make
from tests.unit.bnf.test_lean import step
from tests.unit.bnf.training import BASE, metrics, run, same, weights, workplace_of

MIXTURES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss"]


def row_of(groups: list[PromptGroup]) -> Row:
    return Row(tuple(groups), tuple(range(len(groups))))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", MIXTURES)
def test_the_rest_of_a_row_changes_no_more_than_last_bits(name: str, bf16: bool) -> None:
    """With another completion the experts have other numbers of tokens, and so their matrix products other shapes."""
    model = make(name, torch.float32)
    groups = random_groups(4, prompt=(5, 9), completion=(3, 7))
    row = row_of(groups)
    ids = tuple((token + 7) % VOCABULARY for token in groups[1].completions[0].token_ids)
    completions = (replace(groups[1].completions[0], token_ids=ids), *groups[1].completions[1:])
    changed = row_of([groups[0], replace(groups[1], completions=completions), *groups[2:]])
    with torch.no_grad():
        before, after = (row_logps(model, each, bf16=bf16).logps for each in (row, changed))
        alone = row_logps(model, row_of(groups[:1]), bf16=bf16).logps
    touched = row.completion_of_token == len(groups[0].completions)
    torch.testing.assert_close(before[~touched], after[~touched], rtol=0, atol=5e-6)
    torch.testing.assert_close(before[: len(alone)], alone, rtol=0, atol=5e-6)
    assert not torch.isclose(before[touched], after[touched]).any()


@pytest.mark.parametrize("name", MIXTURES)
def test_bfloat16_is_no_worse_than_padded_bfloat16(name: str) -> None:
    """By the median: where two experts are nearly tied, rounding chooses, here as there."""
    model, peer = make(name, torch.float32), make(name, torch.float32, attention="eager")
    exact_model = copy.deepcopy(model).double()
    ours, theirs = [], []
    for seed in range(4):
        groups = random_groups(6, most=5, seed=seed)
        with torch.no_grad():
            exact = row_logps(exact_model, row_of(groups), bf16=False).logps
            ours.append(row_logps(model, row_of(groups), bf16=True).logps - exact)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                theirs.append(padded_logps(peer, groups) - exact)
    assert torch.cat(ours).abs().median() <= 1.1 * torch.cat(theirs).abs().median()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", MIXTURES)
def test_with_and_without_gradients_and_checkpointing_the_bits_are_the_same(name: str, bf16: bool) -> None:
    """The policy equals its reference before the first step."""
    row = row_of(random_groups(4))
    model = make(name, torch.float32)
    with torch.no_grad():
        reference = row_logps(model, row, bf16=bf16)
    model.train()
    policy = row_logps(model, row, bf16=bf16)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed = row_logps(model, row, bf16=bf16)
    for values in (policy, checkpointed):
        assert torch.equal(values.logps, reference.logps) and torch.equal(values.log_odds, reference.log_odds)


def test_experts_without_a_token_get_a_gradient_of_zero() -> None:
    """And not none: an optimizer's step then depends on no other thing than the gradient, in any number of processes."""
    model = make("qwen3_moe", torch.float32)
    experts = model.model.layers[0].mlp.experts
    chosen: list[Tensor] = []
    experts.register_forward_pre_hook(lambda module, inputs: chosen.append(inputs[1]))
    row_logps(model, row_of(random_groups(1, completion=(1, 2))), bf16=False).logps.sum().backward()
    idle = sorted(set(range(experts.num_experts)) - set(chosen[0].flatten().tolist()))
    busy = sorted(set(chosen[0].flatten().tolist()))
    assert idle and busy
    assert experts.gate_up_proj.grad[busy].any() and not experts.gate_up_proj.grad[idle].any()


@pytest.mark.parametrize("bf16", [False, True])
def test_of_experts_only_what_comes_from_matrix_products_is_kept(bf16: bool) -> None:
    """Twice the width adds what each token's two experts give before their gates, and neither the gates' outputs nor copies."""
    size = 2 if bf16 else 4
    kept = []
    for width in (40, 80):
        model = make("mixtral", torch.float32, attention="bnf_segments", intermediate_size=width)
        model.set_attn_implementation("eager")
        kept.append(step(model.train(), bf16=bf16)[2])
    num_tokens = 512
    assert kept[1] - kept[0] == 2 * num_tokens * 2 * 2 * 40 * size


def test_sinks_bite() -> None:
    row = row_of(random_groups(3))
    model, without = make("gpt_oss"), make("gpt_oss")
    for layer in without.model.layers:
        layer.self_attn.sinks.data.fill_(-1e4)
    difference = (row_logps(model, row, bf16=False).logps - row_logps(without, row, bf16=False).logps).abs()
    assert (difference > 1e-3).double().mean() > 0.3


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_samples_depend_on_no_other_sample(name: str) -> None:
    model = make(name, torch.float32)
    model.config.eos_token_id = 2
    prompts = [(5, 6, 7), (8, 9, 10, 11, 12, 13, 14), (15,)]
    settings: dict[str, Any] = {"max_new_tokens": 8, "seed": 0, "bf16": False}
    together = sample(model, prompts, max_tokens=10_000, **settings)
    apart = sample(model, prompts, max_tokens=1, **settings)
    assert together == apart and len({token for each in together for token in each.token_ids}) > 3
    # The same distribution as on packed rows.
    plain = AutoModelForCausalLM.from_config(configuration(name), attn_implementation="eager", experts_implementation="eager")
    plain.load_state_dict(model.state_dict())
    plain.config.eos_token_id = 2
    assert sample(plain, prompts, max_tokens=10_000, **settings) == together


def names_in(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as weights_file:
        return set(weights_file.keys())


class Stopped(Exception):
    pass


def stop_and_resume(place: Path, output: Path, settings: dict[str, Any]) -> None:
    def stop(done: int, total: int, note: str) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(place, output, stop, **settings)
    assert run(place, output, **settings)["resumed_from_step"] >= 2


# Gemma 3 has no experts, but names of its own in files, as they have.
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "gemma3"])
def test_a_training_resumes_exactly_and_its_policy_has_the_names_of_the_model_it_came_from(name: str, tmp_path: Path) -> None:
    place = workplace_of(name, tmp_path)
    settings: dict[str, Any] = {"num_train_epochs": 2, "save_steps": 1, "weight_decay": 0.1}
    run(place, tmp_path / "whole", **settings)
    stop_and_resume(place, tmp_path / "stopped", settings)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))

    first = metrics(tmp_path / "whole")[0]
    assert first["weights/chosen"] == first["weights/rejected"] == 1
    assert names_in(tmp_path / "whole" / "policy" / "model.safetensors") == names_in(tmp_path / "model" / "model.safetensors")
    # Read again, the policy is what was trained: an expert's weights are that expert's.
    before, after = (weights(tmp_path / "whole"), load_model(tmp_path / "whole" / "policy"))
    after.save_pretrained(tmp_path / "again")
    assert names_in(tmp_path / "again" / "model.safetensors") == before.keys()
    row = row_of(random_groups(2))
    plain = AutoModelForCausalLM.from_pretrained(
        tmp_path / "whole" / "policy", dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    with torch.no_grad():
        expected = padded_logps(plain, list(row.groups))
        torch.testing.assert_close(row_logps(after, row, bf16=False).logps, expected, rtol=1e-5, atol=2e-5)


def test_the_names_in_files_are_those_that_other_programs_read(tmp_path: Path) -> None:
    first = {
        "mixtral": "model.layers.0.block_sparse_moe.experts.3.w1.weight",
        "qwen2_moe": "model.layers.0.mlp.experts.3.gate_proj.weight",
        "qwen3_moe": "model.layers.0.mlp.experts.3.gate_proj.weight",
        "olmoe": "model.layers.0.mlp.experts.3.gate_proj.weight",
        "gpt_oss": "model.layers.0.mlp.experts.gate_up_proj",
    }
    for name, parameter in first.items():
        make(name, torch.float32).save_pretrained(tmp_path / name)
        assert parameter in names_in(tmp_path / name / "model.safetensors")


def adapted(name: str, *, attention: str = ATTENTION) -> PreTrainedModel:
    config = TrainConfig(**(BASE | {"lora_r": 2, "lora_target_modules": "all-linear"}))
    model = add_adapter(make(name, torch.float32, attention=attention), config)
    generator = torch.Generator().manual_seed(0)
    for parameter, values in model.named_parameters():
        if "lora_B" in parameter:
            values.data = 0.2 * torch.randn(values.shape, generator=generator)
    return model


@pytest.mark.parametrize("name", MIXTURES)
def test_adapters_are_computed_exactly_and_merged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="bnf"):
        model, padded = adapted(name), adapted(name, attention="eager")
    reaches_experts = any("experts" in parameter for parameter, values in model.named_parameters() if values.requires_grad)
    assert reaches_experts == (name not in ("qwen2_moe", "gpt_oss"))
    assert ("all-linear reaches no experts" in caplog.text) == (not reaches_experts)
    row = row_of(random_groups(3))
    logps, expected = row_logps(model, row, bf16=False).logps, padded_logps(padded, list(row.groups))
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=2e-5)
    logps.sum().backward()
    expected.sum().backward()
    for (parameter, ours), theirs in zip(model.named_parameters(), padded.parameters(), strict=True):
        assert ours.requires_grad == (ours.grad is not None) == (theirs.grad is not None)
        if theirs.grad is not None:
            assert theirs.grad.any() and (ours.grad - theirs.grad).norm() <= 1e-4 * theirs.grad.norm(), parameter
    with torch.no_grad():
        torch.testing.assert_close(row_logps(merge(model), row, bf16=False).logps, expected, rtol=1e-5, atol=5e-5)


def test_adapters_of_experts_train_resume_and_are_merged(tmp_path: Path) -> None:
    place = workplace_of("qwen3_moe", tmp_path)
    settings: dict[str, Any] = {"lora_r": 4, "learning_rate": 1e-2, "num_train_epochs": 2, "save_steps": 1}
    run(place, tmp_path / "whole", **settings)
    stop_and_resume(place, tmp_path / "stopped", settings)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    before, after = load_file(tmp_path / "model" / "model.safetensors"), weights(tmp_path / "whole")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name or ".gate." in name}


def test_dropout_of_experts_is_refused() -> None:
    config = TrainConfig(**(BASE | {"lora_r": 2, "lora_dropout": 0.1}))
    with pytest.raises(
        ValueError, match=r"^lora_dropout must be 0 for adapters of experts, got 0\.1; set it to 0, or name modules"
    ):
        add_adapter(make("mixtral", torch.float32), config)
