"""Each setting does what its name says."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bnf.data.groups import read_groups
from bnf.data.packing import pack
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.training.adapters import add_adapter
from bnf.training.collapse import TrainingCollapsed
from bnf.training.config import TrainConfig
from tests.unit.bnf.training import BASE, metrics, run, same, weights


@pytest.mark.parametrize("lora_r", [0, 4])
@pytest.mark.parametrize("bf16", [False, True])
def test_gradient_checkpointing_computes_layers_twice_and_the_same_gradients(workplace: Path, lora_r: int, bf16: bool) -> None:
    row = pack(read_groups(workplace / "groups"), 48)[0]
    gradients, forwards = [], []
    for checkpointing in (False, True):
        model: Any = load_model(workplace / "model", gradient_checkpointing=checkpointing)
        if lora_r:
            model = add_adapter(model, TrainConfig(**(BASE | {"lora_r": lora_r})))
        calls: list[int] = []
        for layer in model.get_decoder().layers:
            layer.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        row_logps(model.train(), row, bf16=bf16).logps.sum().backward()
        forwards.append(len(calls))
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    assert forwards == [2, 4]
    assert gradients[0] and same(gradients[0], gradients[1])


def test_bf16_trains_float32_weights_from_exact_equality(workplace: Path, tmp_path: Path) -> None:
    run(workplace, tmp_path / "bf16", bf16=True)
    run(workplace, tmp_path / "float32", bf16=False)
    first = metrics(tmp_path / "bf16")[0]
    assert first["weights/chosen"] == first["weights/rejected"] == 1
    ours, exact = weights(tmp_path / "bf16"), weights(tmp_path / "float32")
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
    # Computed in bfloat16, which has eight bits, and stored in float32.
    assert not same(ours, exact)
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in ours.values())
    losses = [[line["loss"] for line in metrics(tmp_path / name)] for name in ("bf16", "float32")]
    assert losses[0] == pytest.approx(losses[1], abs=0.06) and losses[0] != losses[1]


def test_the_gradient_norm_is_clipped_or_only_logged(workplace: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optim": "sgd", "max_steps": 1, "warmup_ratio": 0.0, "lr_scheduler_type": "constant"}
    start = load_file(workplace / "model" / "model.safetensors")
    lengths = {}
    for norm in (0.0, 0.01, 1e6):
        run(workplace, tmp_path / str(norm), **settings, max_grad_norm=norm)
        moved = weights(tmp_path / str(norm))
        lengths[norm] = math.sqrt(sum(float(((moved[name] - start[name]) / 1e-3).square().sum()) for name in start))
    logged = [metrics(tmp_path / str(norm))[0]["grad_norm"] for norm in lengths]
    assert logged[0] == pytest.approx(logged[1]) == pytest.approx(logged[2])
    assert lengths[0.0] == pytest.approx(lengths[1e6], rel=1e-3) == pytest.approx(logged[0], rel=1e-2)
    assert lengths[0.01] == pytest.approx(0.01, rel=0.05)


def test_weight_decay_shrinks_matrices(workplace: Path, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    for decay in (0.0, 10.0):
        run(workplace, tmp_path / str(decay), weight_decay=decay, max_steps=2, learning_rate=1e-3)
    plain, decayed = (weights(tmp_path / str(decay))[name].norm() for decay in (0.0, 10.0))
    assert decayed < 0.995 * plain


def test_logging_steps_average_what_lies_between(workplace: Path, tmp_path: Path) -> None:
    for steps in (1, 4):
        run(workplace, tmp_path / str(steps), logging_steps=steps, max_steps=4)
    each, (together,) = metrics(tmp_path / "1"), metrics(tmp_path / "4")
    assert together["step"] == 4
    assert together["loss"] == pytest.approx(sum(line["loss"] for line in each) / 4)
    assert together["tokens_per_second"] > 0 and together["padding_share"] == 0 and together["peak_memory_gb"] > 0


def test_a_gradient_that_is_no_number_stops_an_unclipped_training(workplace: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingCollapsed, match=r"must be finite, got (nan|inf) at step 2; .* max_grad_norm \(now 0\)"):
        run(workplace, tmp_path, max_grad_norm=0.0, learning_rate=1e30, warmup_ratio=0.0)
    assert [line["step"] for line in metrics(tmp_path)] == [1]
