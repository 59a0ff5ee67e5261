"""Weights in bf16: updates too small for them are not lost, the reference has the same arithmetic, and a kill changes no bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bnf.data.groups import read_groups
from bnf.data.packing import pack
from bnf.model.loading import load_model
from bnf.model.logps import head_logps, row_logps
from bnf.reference.cache import cache_reference, read_reference
from bnf.reference.index import read_index
from bnf.training.arguments import training_arguments
from bnf.training.config import TrainConfig
from bnf.training.fields import BF16_OPTIMIZERS
from bnf.training.optimizers import rounding_optimizer
from tests.unit.bnf.training import ignore, metrics, run, run_killed, same, weights

optimi = pytest.importorskip("optimi", reason="torch-optimi is not installed")

BF16: dict[str, Any] = {"weights": "bf16", "bf16": True}


@pytest.fixture(scope="module")
def bf16_workplace(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model and its groups, with the reference of its weights in bf16."""
    folder = tmp_path_factory.mktemp("bf16_weights")
    for name in ("model", "groups"):
        (folder / name).symlink_to(workplace / name)
    cache_reference(
        folder / "model", folder / "groups", folder / "reference_True", max_tokens_per_row=48, progress=ignore, **BF16
    )
    return folder


def kahan(parameter: torch.nn.Parameter, folder: Path, **settings: Any) -> torch.optim.Optimizer:
    config = TrainConfig(weights="bf16", **settings)
    made = rounding_optimizer(config, training_arguments(config, folder, evaluates=False))
    assert made is not None
    optimizer, keywords = made
    built: torch.optim.Optimizer = optimizer([parameter], **keywords)
    return built


def updated(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    """After so many steps of one gradient, whose sign alone counts for AdamW: each moves every weight by the learning rate."""
    for _ in range(steps):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return parameter.detach().float()


def test_small_updates_add_up_where_rounding_would_lose_every_one(tmp_path: Path) -> None:
    """100 updates of 5e-7 are 5e-5. bf16 numbers from 2^-9 to 2^-7 lie 2^-16 = 1.5e-5 or 2^-15 = 3.1e-5 apart."""
    start = torch.linspace(2**-9, 2**-7, 64).bfloat16()
    assert start.float().diff().min() >= 0
    exact = torch.nn.Parameter(start.float())
    moved = updated(exact, torch.optim.AdamW([exact], lr=5e-7, weight_decay=0.0), 100)
    torch.testing.assert_close(moved, start.float() - 5e-5, rtol=0, atol=1e-7)

    nearest = torch.nn.Parameter(start.clone())
    assert torch.equal(updated(nearest, torch.optim.AdamW([nearest], lr=5e-7, weight_decay=0.0), 100), start.float())

    parameter = torch.nn.Parameter(start.clone())
    optimizer = kahan(parameter, tmp_path, learning_rate=5e-7)
    found = updated(parameter, optimizer, 100)
    # Within half the distance of two numbers there, and with what the buffer holds within a 256th of that distance and of the way.
    assert (found - moved).abs().max() <= 2**-16 + 1e-7 and not torch.equal(found, start.float())
    kept = optimizer.state[parameter]["kahan_comp"].float()
    torch.testing.assert_close(found + kept, moved, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adamw_torch"])
def test_the_optimizer_has_the_settings_of_the_one_that_it_stands_for(tmp_path: Path, name: str) -> None:
    config = TrainConfig(weights="bf16", optim=name, learning_rate=1e-4)
    arguments = training_arguments(config, tmp_path, evaluates=False)
    made = rounding_optimizer(config, arguments)
    assert made == (
        optimi.AdamW,
        {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "kahan_sum": True},
    )
    # float32, and adapters, which are float32, have transformers' own.
    for other in (TrainConfig(optim=name), TrainConfig(weights="bf16", optim=name, lora_r=2)):
        assert rounding_optimizer(other, arguments) is None


def test_the_decay_is_trainings_own(bf16_workplace: Path, tmp_path: Path) -> None:
    """transformers gives norms no decay, and matrices `weight_decay`: with it the policy is another one."""
    for decay in (0.0, 10.0):
        run(bf16_workplace, tmp_path / str(decay), **BF16, weight_decay=decay, learning_rate=1e-2, max_steps=2)
    plain, decayed = (weights(tmp_path / str(decay)) for decay in (0.0, 10.0))
    assert decayed["model.embed_tokens.weight"].norm() < 0.95 * plain["model.embed_tokens.weight"].norm()


@pytest.mark.parametrize("optim", ["sgd", "adafactor", "adamw_8bit", "lion_8bit"])
def test_optimizers_that_lose_updates_are_refused(optim: str) -> None:
    assert optim not in BF16_OPTIMIZERS
    with pytest.raises(ValueError, match=rf"^optim must be one of adamw_torch_fused, .* where weights is bf16.*got '{optim}'"):
        TrainConfig(weights="bf16", optim=optim)
    TrainConfig(weights="bf16", optim=optim, lora_r=2)


def test_bf16_weights_in_float32_arithmetic_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^weights must be fp32 where bf16 is false.*, got 'bf16'; write train\.weights=fp32"):
        TrainConfig(weights="bf16", bf16=False)


def test_reference_and_policy_are_equal_to_the_bit_and_training_learns(bf16_workplace: Path, tmp_path: Path) -> None:
    rows = pack(read_groups(bf16_workplace / "groups"), 48)
    model = load_model(bf16_workplace / "model", weights="bf16").train()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    references = read_reference(bf16_workplace / "reference_True", rows, max_tokens_per_row=48, **BF16)
    for row, reference in zip(rows, references, strict=True):
        policy = row_logps(model, row, bf16=True)
        assert torch.equal(policy.logps, reference.logps) and torch.equal(policy.log_odds, reference.log_odds)

    run(bf16_workplace, tmp_path, **BF16, num_train_epochs=2)
    first, *_, last = (entry for entry in metrics(tmp_path) if "loss" in entry)
    assert first["weights/chosen"] == first["weights/rejected"] == 1
    assert last["rewards/margins"] > 1


def test_the_cache_knows_how_the_weights_were_held(workplace: Path, bf16_workplace: Path) -> None:
    rows = pack(read_groups(workplace / "groups"), 48)
    assert read_index(bf16_workplace / "reference_True").identity.weights == "bf16"
    with pytest.raises(ValueError, match="reference_dir's weights must be 'bf16', got 'fp32'"):
        read_reference(workplace / "reference_True", rows, max_tokens_per_row=48, **BF16)
    with pytest.raises(ValueError, match="reference_dir's load_in_4bit must be True, got False"):
        read_reference(workplace / "reference_True", rows, max_tokens_per_row=48, bf16=True, load_in_4bit=True)
    changed = [TrainConfig(**each).reference_settings() for each in ({}, BF16, {"load_in_4bit": True, "lora_r": 2})]
    assert changed[0] != changed[1] and changed[0] != changed[2]


# In a test of every change the optimizer's buffers are resumed from by `sharded_optimizers`.
@pytest.mark.nightly
def test_a_killed_training_goes_on_to_the_same_bits_with_what_rounding_took(bf16_workplace: Path, tmp_path: Path) -> None:
    """So small a rate that without the buffers, which a checkpoint holds, the resumed training would end elsewhere."""
    settings = BF16 | {"num_train_epochs": 2, "save_steps": 2, "learning_rate": 3e-4}
    run(bf16_workplace, tmp_path / "whole", **settings)
    run_killed(bf16_workplace, tmp_path / "killed", **settings)
    states = tmp_path / "killed" / "checkpoints" / "checkpoint-2" / "optimizer.pt"
    held = [state["kahan_comp"] for state in torch.load(states, weights_only=True)["state"].values()]
    assert {value.dtype for value in held} == {torch.bfloat16} and any(bool(value.any()) for value in held)
    assert run(bf16_workplace, tmp_path / "killed", **settings)["resumed_from_step"] == 2
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_adapters_beside_frozen_bf16_weights_are_float32(bf16_workplace: Path, tmp_path: Path) -> None:
    run(bf16_workplace, tmp_path, **BF16, lora_r=4, learning_rate=1e-2, num_train_epochs=2)
    first, *_, last = (entry for entry in metrics(tmp_path) if "loss" in entry)
    assert first["weights/chosen"] == 1 and last["rewards/margins"] > 0.1
    from safetensors.torch import load_file

    adapter = load_file(tmp_path / "adapter_checkpoint" / "adapter_model.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}


def test_the_heads_gradient_is_rounded_once_and_not_once_a_chunk() -> None:
    """Every chunk adds as much to a weight, so that a sum in bf16 would stop growing after some hundred of them."""
    torch.manual_seed(0)
    hidden, targets = torch.ones(512, 16).bfloat16(), torch.zeros(512, dtype=torch.long)
    start = torch.randn(8, 16).bfloat16()

    def gradient(dtype: torch.dtype, chunk: int) -> Tensor:
        weight = start.to(dtype).requires_grad_()
        head_logps(hidden, weight, targets, chunk=chunk).logps.sum().backward()
        assert weight.grad is not None and weight.grad.dtype == dtype
        return weight.grad.float()

    exact = gradient(torch.float32, 1)
    assert torch.equal(gradient(torch.bfloat16, 1), exact.bfloat16().float())
