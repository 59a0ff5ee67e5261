"""QLoRA: adapters beside weights in 4 bits. The reference is the quantized model, and the policy is what the adapters were trained on."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from bnf.data.groups import DEV, write_groups
from bnf.data.packing import pack
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.model.quantized import make_whole, quantization
from bnf.reference.cache import cache_reference, read_reference
from bnf.training.adapters import add_adapter, merge, without_adapter
from bnf.training.choosing import policy_after
from bnf.training.config import TrainConfig
from bnf.training.preparation import Folders
from bnf.training.trainer import train
from tests.unit.bnf.helpers import VOCABULARY, padded_logps, random_groups
from tests.unit.bnf.training import BASE, ignore, metrics, run, same, weights

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

QLORA: dict[str, Any] = {"load_in_4bit": True, "lora_r": 4, "lora_alpha": 8, "learning_rate": 1e-2, "dev_max_new_tokens": 4}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with biases, groups with dev groups, and the reference of its weights in 4 bits."""
    folder = tmp_path_factory.mktemp("four_bits")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = Qwen2Config(
        vocab_size=VOCABULARY, initializer_range=0.3, tie_word_embeddings=request.param, bos_token_id=1, eos_token_id=2, **sizes
    )
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder / "model")
    write_groups(folder / "groups", random_groups(12))
    write_groups(folder / "groups" / DEV, random_groups(4, seed=1))
    for bf16 in (True, False):
        cache_reference(
            *(folder / "model", folder / "groups", folder / f"reference_{bf16}"),
            **{"max_tokens_per_row": 48, "bf16": bf16, "load_in_4bit": True, "progress": ignore},
        )
    return folder


def quantized(place: Path) -> Any:
    return load_model(place / "model", load_in_4bit=True)


def test_the_decoders_linear_layers_are_in_4_bits_and_nothing_else(place: Path) -> None:
    model = quantized(place)
    for name, parameter in model.named_parameters():
        in_4_bits = name.endswith("_proj.weight")
        assert parameter.dtype == (torch.uint8 if in_4_bits else torch.float32), name
        # Of 16 numbers one is chosen for each weight: 4 bits, two in a byte.
        assert not in_4_bits or parameter.quant_state.shape.numel() == 2 * parameter.numel()


def test_rows_have_the_values_of_a_padded_batch_of_the_same_quantized_model(place: Path) -> None:
    """The weights that the 4 bits stand for, through transformers' own forward pass, in float32; and the biases are not rounded."""
    groups = random_groups(12)
    plain = quantized(place)
    make_whole(plain)
    plain.save_pretrained(place / "whole")
    whole = AutoModelForCausalLM.from_pretrained(place / "whole", dtype=torch.float32, attn_implementation="eager")
    model = quantized(place).train()
    with torch.no_grad():
        row_logps(model, pack(groups, 48)[0], bf16=True)
        for row in pack(groups, 48):
            found = row_logps(model, row, bf16=False).logps
            torch.testing.assert_close(found, padded_logps(whole, row.groups), rtol=1e-4, atol=1e-4)
    assert {bias.dtype for name, bias in model.named_parameters() if name.endswith("bias")} == {torch.float32}


@pytest.mark.parametrize("bf16", [True, False])
def test_the_reference_is_the_quantized_model_with_adapters_disabled_to_the_bit(place: Path, bf16: bool) -> None:
    """Also after an evaluation, in which bitsandbytes would pack the weights anew on processors with AVX512-BF16."""
    rows = pack(random_groups(12), 48)
    model = add_adapter(quantized(place), TrainConfig(bf16=bf16, **QLORA))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    references = read_reference(place / f"reference_{bf16}", rows, max_tokens_per_row=48, bf16=bf16, load_in_4bit=True)
    for evaluates in (True, False):
        model.train(not evaluates)
        for row, reference in zip(rows, references, strict=True):
            with torch.set_grad_enabled(not evaluates), without_adapter(model) as frozen:
                logps = row_logps(frozen, row, bf16=bf16).logps
            assert torch.equal(logps, reference.logps)
            assert not torch.allclose(row_logps(model, row, bf16=bf16).logps, reference.logps, atol=0.1)


def test_gradients_reach_every_adapter_through_the_quantized_layers(place: Path) -> None:
    """Those of the first layer pass through all others: the same as beside the whole weights that the 4 bits stand for."""
    row = pack(random_groups(12), 48)[0]
    gradients = []
    for in_4_bits in (True, False):
        base = quantized(place)
        if not in_4_bits:
            make_whole(base)
        model = add_adapter(base, TrainConfig(bf16=False, **QLORA)).train()
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        row_logps(model, row, bf16=False).logps.sum().backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.requires_grad})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 2 * 7 * 2
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-3 * float(gradient.abs().max()), msg=name)


@pytest.mark.integration
@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "down_proj"]])
def test_the_policy_computes_what_was_trained(place: Path, tmp_path: Path, modules: Any) -> None:
    settings = QLORA | {"objective": "dpo", "bf16": True, "global_batch_size": 12, "num_train_epochs": 8}
    run(place, tmp_path, **settings, lora_target_modules=modules)
    first, *_, last = (entry for entry in metrics(tmp_path) if "loss" in entry)
    # Every step has all pairs: their loss begins at log 2, where policy and reference are one.
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) and last["loss"] < 0.6
    # A plain folder: names, shapes and dtypes of the model's own, and everything whole that was never quantized.
    before, after = weights_of(place / "model"), weights(tmp_path)
    assert {name: (one.shape, one.dtype) for name, one in before.items()} == {
        name: (one.shape, one.dtype) for name, one in after.items()
    }
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    assert (tmp_path / "policy" / "config.json").read_bytes() == (place / "model" / "config.json").read_bytes()

    from peft import PeftModel

    trained = PeftModel.from_pretrained(quantized(place), tmp_path / "adapter_checkpoint").eval()
    policy, original = load_model(tmp_path / "policy").eval(), load_model(place / "model").eval()
    with torch.no_grad():
        for row in pack(random_groups(4, seed=1), 48):
            expected = row_logps(trained, row, bf16=False).logps
            torch.testing.assert_close(row_logps(policy, row, bf16=False).logps, expected, rtol=1e-3, atol=1e-3)
            # Added to the original weights, the adapters would compute something else.
            onto_original = row_logps(merged_onto(original, trained), row, bf16=False).logps
            assert (onto_original - expected).abs().max() > 0.05


@pytest.mark.integration
def test_a_killed_training_goes_on_to_the_same_bits(place: Path, tmp_path: Path) -> None:
    """The frozen weights are quantized anew, to the same 4 bits."""
    settings = QLORA | {"bf16": True, "save_steps": 2, "num_train_epochs": 2}
    run(place, tmp_path / "whole", **settings)

    class Killed(Exception):
        pass

    def kill(done: int, total: int, note: str) -> None:
        if list((tmp_path / "killed").glob("checkpoints/checkpoint-2")):
            raise Killed

    with pytest.raises(Killed):
        run(place, tmp_path / "killed", progress=kill, **settings)
    assert run(place, tmp_path / "killed", **settings)["resumed_from_step"] == 2
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.integration
def test_policies_of_the_way_are_merged_into_what_the_4_bits_stand_for(place: Path, tmp_path: Path) -> None:
    settings = BASE | QLORA | {"lr_scheduler_type": "constant", "warmup_ratio": 0.0, "eval_steps": 100}
    for output, steps, checkpoints in (("whole", 3, ["step1", "step3"]), ("ended", 1, [])):
        folders = Folders(place / "model", place / "groups", place / "reference_False", tmp_path / output)
        config = TrainConfig(**(settings | {"max_steps": steps}))
        train(config, folders, step0_check=True, progress=ignore, checkpoints=checkpoints)
    kept = [load_file(policy_after(tmp_path / "whole", step) / "model.safetensors") for step in (1, 3)]
    assert same(kept[0], weights(tmp_path / "ended")) and same(kept[1], weights(tmp_path / "whole"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def merged_onto(original: Any, trained: Any) -> Any:
    """The original weights with the adapters added."""
    import copy

    model = copy.deepcopy(original)
    for name, module in trained.get_base_model().named_modules():
        if hasattr(module, "get_delta_weight"):
            model.get_submodule(name).weight.data += module.get_delta_weight("default").detach()
    return model


def test_merging_does_not_quantize_again(place: Path) -> None:
    model = add_adapter(quantized(place), TrainConfig(**QLORA))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 1e-4)
    base, merged = quantized(place), merge(model)
    make_whole(base)
    for name, parameter in merged.named_parameters():
        moved = (parameter - base.get_parameter(name)).abs().max()
        # So small a change is lost in 4 bits.
        assert bool(0 < moved < 1e-3) == name.endswith("_proj.weight"), name


def test_layers_that_are_not_linear_are_refused(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    with torch.device("meta"):
        model = MixtralForCausalLM(MixtralConfig(vocab_size=8, num_local_experts=2, **sizes))
    with pytest.raises(
        ValueError, match=r"load_in_4bit must be false for MixtralForCausalLM, got true: its .*experts.* would stay whole"
    ):
        quantization(model)


def test_shards_of_4_bits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^sharding must be none where load_in_4bit is true, as .*, got 'full'; leave it out"):
        TrainConfig(load_in_4bit=True, lora_r=2, sharding="full")
    with pytest.raises(ValueError, match="load_in_4bit must be left at false where lora_r is 0"):
        TrainConfig(load_in_4bit=True)
