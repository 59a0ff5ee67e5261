import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bnf.data.groups import read_groups
from bnf.data.packing import pack
from bnf.model.digests import model_digest
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.training.adapters import add_adapter
from bnf.training.config import TrainConfig
from bnf.training.policies import ADAPTER
from tests.unit.bnf.training import BASE, metrics, run, run_killed, same, weights

LORA: dict[str, Any] = {"lora_r": 4, "lora_alpha": 8, "learning_rate": 1e-2}


def test_only_adapters_get_gradients_and_they_start_at_zero(workplace: Path) -> None:
    row = pack(read_groups(workplace / "groups"), 48)[0]
    plain = load_model(workplace / "model")
    expected = row_logps(plain, row, bf16=True).logps
    adapted = add_adapter(load_model(workplace / "model"), TrainConfig(**(BASE | LORA)))
    logps = row_logps(adapted, row, bf16=True).logps
    assert torch.equal(logps, expected)
    logps.sum().backward()
    with_gradient = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    # Two matrices for each of the seven linear layers in both blocks.
    assert len(with_gradient) == 2 * 7 * 2 and all(".lora_" in name for name in with_gradient)
    # The second matrix is zero, so the first has no gradient yet; the second has one everywhere.
    for name, parameter in adapted.named_parameters():
        if name in with_gradient:
            assert bool(parameter.grad.abs().max() > 0) == ("lora_B" in name), name


def test_policy_is_the_merged_model_with_the_adapter_beside_it(workplace: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    add_adapter(load_model(workplace / "model"), TrainConfig(**(BASE | LORA)))
    assert torch.equal(state, torch.get_rng_state())
    run(workplace, tmp_path, **LORA, num_train_epochs=2)
    first = metrics(tmp_path)[0]
    assert first["weights/chosen"] == first["weights/rejected"] == 1 and first["rewards/margins"] == 0
    assert metrics(tmp_path)[-1]["rewards/margins"] > 0.1

    assert sorted(path.name for path in (tmp_path / ADAPTER).iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(workplace / "model", dtype=torch.float32), tmp_path / ADAPTER
    )
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    ids = torch.tensor([[5, 17, 80, 3, 96, 41]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-5)
        with adapted.disable_adapter():
            assert (merged(ids).logits - adapted(ids).logits).abs().max() > 0.01
    # A plain folder: the names of the model it came from, and only what the adapters reach has changed.
    before, after = load_file(workplace / "model" / "model.safetensors"), weights(tmp_path)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    assert AutoTokenizer.from_pretrained(tmp_path / "policy")("w5 w17")["input_ids"] == [5, 17]
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "policy" / name).read_bytes() == (workplace / "model" / name).read_bytes()
    assert model_digest(tmp_path / "policy") != model_digest(workplace / "model")


# `test_trainer` kills a training of whole weights, `test_parallel_training` one of adapters.
@pytest.mark.nightly
def test_killed_by_signal_9_adapters_resume_to_the_same_bits(workplace: Path, tmp_path: Path) -> None:
    """Dropout draws from the generator that a checkpoint keeps; the process dies with its second checkpoint half written."""
    settings = LORA | {"lora_dropout": 0.2, "num_train_epochs": 2, "save_steps": 2}
    run(workplace, tmp_path / "whole", **settings)
    run_killed(workplace, tmp_path / "killed", **settings)
    checkpoint = tmp_path / "killed" / "checkpoints" / "checkpoint-2"
    # The adapters alone: a checkpoint doesn't hold the frozen weights.
    assert [path.name for path in checkpoint.glob("*.safetensors")] == ["adapter_model.safetensors"]
    assert run(workplace, tmp_path / "killed", **settings)["resumed_from_step"] == 2
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    kept = [tmp_path / name / ADAPTER / "adapter_model.safetensors" for name in ("whole", "killed")]
    assert kept[0].read_bytes() == kept[1].read_bytes()


def test_with_dropout_the_assertion_gives_way_to_a_warning(
    workplace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Zero at first whatever is dropped: only a reference of other weights shows the difference.
    model = AutoModelForCausalLM.from_pretrained(workplace / "model", dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.01)
    model.save_pretrained(tmp_path / "model")
    for name in ("groups", "reference_False"):
        (tmp_path / name).symlink_to(workplace / name)
    with pytest.raises(ValueError, match="mean weight at step 0 must be 1 within 1e-06"):
        run(tmp_path, tmp_path / "checked", **LORA)
    with caplog.at_level(logging.WARNING, logger="bnf"):
        run(tmp_path, tmp_path / "warned", **LORA, lora_dropout=0.1, max_steps=1)
    assert "the mean weight at step 0 is 0.9" in caplog.text


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["q_porj"], r"lora_target_modules must name modules of the model, got \['q_porj'\]"),
        (["q_proj", "lm_head"], "lora_target_modules must leave out embeddings and head, got .*'lm_head'"),
        (["embed_tokens"], "lora_target_modules must leave out embeddings and head"),
    ],
)
def test_modules_that_cannot_be_adapted_are_refused(workplace: Path, tmp_path: Path, modules: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(workplace, tmp_path, **LORA, lora_target_modules=modules)


def test_named_modules_alone_are_adapted(workplace: Path, tmp_path: Path) -> None:
    run(workplace, tmp_path, **LORA, lora_target_modules=["q_proj", "v_proj"])
    assert json.loads((tmp_path / ADAPTER / "adapter_config.json").read_text())["r"] == 4
    before, after = load_file(workplace / "model" / "model.safetensors"), weights(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "q_proj" in name or "v_proj" in name}
