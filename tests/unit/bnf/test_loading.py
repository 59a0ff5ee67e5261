"""What of a model folder is loaded: all that its files hold, or it is refused; and which of it is trained."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bnf.model.loading import empty_model, load_model, load_values, saved_buffers
from bnf.training.adapters import add_adapter
from bnf.training.config import TrainConfig
from tests.unit.bnf.models import MODELS, configuration, make


@pytest.mark.parametrize("name", ["llama_tied", "apertus", "olmoe"])
def test_the_values_for_shares_are_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    """Also where the configuration names a narrower dtype than the files have: nothing is rounded on the way."""
    model = make(name, torch.float32, attention="sdpa")
    for _, buffer in saved_buffers(model):
        buffer *= 1.1
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    found, whole = load_values(tmp_path), load_model(tmp_path)
    expected = dict([*whole.named_parameters(), *saved_buffers(whole)])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[each], expected[each]) for each in expected)


def test_weights_in_half_precision_are_read_as_they_are(tmp_path: Path) -> None:
    make("llama", torch.bfloat16).save_pretrained(tmp_path)
    assert {values.dtype for values in load_values(tmp_path).values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", MODELS)
def test_what_text_does_not_pass_through_is_not_trained(name: str, tmp_path: Path) -> None:
    configuration(name).save_pretrained(tmp_path)
    frozen = [each for each, parameter in empty_model(tmp_path).named_parameters() if not parameter.requires_grad]
    assert bool(frozen) == (name == "gemma3")
    assert all("vision_tower" in each or "multi_modal_projector" in each for each in frozen)


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "v_proj"]])
def test_adapters_are_for_what_text_passes_through(modules: str | list[str]) -> None:
    """A vision tower has projections of the same names."""
    model = make("gemma3", torch.float32)
    assert any("vision_tower" in name and name.endswith("q_proj") for name, _ in model.named_modules())
    adapted = add_adapter(model, TrainConfig(lora_r=2, lora_target_modules=modules, objective="sft"))
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained and all(".language_model.layers." in name for name in trained)


def change(folder: Path, tensors: Callable[[dict[str, Tensor]], object] | None = None, **config: object) -> None:
    """Changes the files of a model in one file, and its config.json."""
    if tensors is not None:
        held = load_file(folder / "model.safetensors")
        tensors(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: change(folder, lambda held: held.pop("lm_head.weight")), "without lm_head.weight;"),
        (
            lambda folder: change(folder, lambda held: [held.pop(name) for name in list(held) if "layers.1.mlp" in name]),
            r"without model.layers.1.mlp.down_proj.weight and 2 more;",
        ),
        (
            lambda folder: change(folder, intermediate_size=44),
            r"with model.layers.0.mlp.down_proj.weight of shape \(24, 40\), not \(24, 44\) and 5 more;",
        ),
        # The untied head of the files would be dropped where the model is made from config.json.
        (
            lambda folder: change(folder, tie_word_embeddings=True),
            r"with a head beside the embeddings, which config.json ties \(tie_word_embeddings\);",
        ),
    ],
)
def test_weights_that_are_not_in_the_files_are_not_made_up(spoil: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    make("llama", torch.float32).save_pretrained(tmp_path)
    load_model(tmp_path)
    spoil(tmp_path)
    for load in (load_model, load_values):
        with pytest.raises(
            ValueError, match=f"whose files hold the weights that config.json says, got {tmp_path} {said} fetch"
        ):
            load(tmp_path)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-8])])
def test_a_missing_or_half_file_is_refused(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    make("llama", torch.float32).save_pretrained(tmp_path, max_shard_size="20KB")
    file = tmp_path / "model-00002-of-00004.safetensors"
    load_model(tmp_path)
    spoil(file)
    for load in (load_model, load_values):
        with pytest.raises(ValueError, match=f"must be a folder with whole files, got {tmp_path} .*; fetch the model again"):
            load(tmp_path)


def test_parameters_keep_the_values_of_the_files(tmp_path: Path) -> None:
    """Whatever dtype config.json names: one process reads them for all of a sharded training."""
    make("llama", torch.bfloat16).save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load_values(tmp_path).values()} == {torch.bfloat16}
    change(tmp_path, dtype="float16")
    assert {parameter.dtype for parameter in load_values(tmp_path).values()} == {torch.bfloat16}
    change(tmp_path, lambda held: held.update({"model.norm.weight": torch.full((24,), 1 + 2**-20)}))
    assert float(load_values(tmp_path)["model.norm.weight"][0]) == 1 + 2**-20
