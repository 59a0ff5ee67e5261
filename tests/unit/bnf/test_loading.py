"""What of a model folder is loaded: all that its files hold, and which of it is trained."""

import json
from pathlib import Path

import pytest
import torch

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
