"""A model folder's own code is never run, and its weights are read from safetensors alone, whoever opens it."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from bnf.data.rendering import load_tokenizer
from bnf.data.same_tokenizer import check_same_tokenizer
from bnf.model.digests import model_digest
from bnf.model.loading import load_model
from bnf.model_folders import open_config, open_tokenizer, open_weights, refuse_other_weights
from evaluation.engines import open_engine
from evaluation.judging.reward_model import RewardModel

OPENERS = {
    "training": load_model,
    "tokenizer": load_tokenizer,
    "engine": lambda folder: open_engine("transformers", folder),
    "reward model": RewardModel,
    "reference's tokenizer": lambda folder: check_same_tokenizer(folder, folder),
}


def changed(folder, file, **values):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    return folder


@pytest.fixture
def with_code(model, tmp_path, monkeypatch):
    """A folder that can't be opened without its code, which leaves a trace where it runs; and a person who says yes to all."""
    trace = tmp_path / "trace"
    (model / "evil.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass C: pass\nclass T: pass\n")
    changed(model, "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})
    changed(model, "tokenizer_config.json", tokenizer_class="T", auto_map={"AutoTokenizer": ["evil.T", None]})
    asked = []
    monkeypatch.setattr("builtins.input", lambda words="": asked.append(words) or "y")
    yield model
    assert not asked and not trace.exists()


@pytest.mark.parametrize("who", OPENERS)
def test_code_of_a_model_folder_is_never_run_and_nobody_is_asked(with_code, who):
    before = set(sys.modules)
    with pytest.raises(ValueError, match="model_name_or_path must be a model that transformers knows by itself") as refusal:
        OPENERS[who](with_code)
    assert str(with_code) in str(refusal.value) and "code of a model folder is never run" in str(refusal.value)
    assert "trust_remote_code" not in str(refusal.value), "no advice to run it"
    assert not [name for name in set(sys.modules) - before if "evil" in name]


def test_the_refusal_names_the_key(with_code):
    for opening in (open_config, open_tokenizer):
        with pytest.raises(ValueError, match=r"^label\.judge\.model_name_or_path must be"):
            opening(with_code, key="label.judge.model_name_or_path")


def test_code_beside_a_model_that_transformers_knows_is_not_run(model, tmp_path):
    (model / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\nclass C: pass\n")
    changed(model, "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})
    assert type(load_model(model)).__name__ == "LlamaForCausalLM" and not (tmp_path / "trace").exists()


class Leaves:
    """What a pickle runs where it is read."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (Path(self.trace),))


@pytest.mark.parametrize("other", ["x.safetensors", None])
@pytest.mark.parametrize("who", ["training", "engine", "reward model"])
def test_pickled_weights_are_never_read(model, tmp_path, who, other):
    import torch

    trace = tmp_path / "trace"
    if other:
        (model / "model.safetensors").rename(model / other)
    else:
        (model / "model.safetensors").unlink()
    torch.save({"weight": Leaves(trace)}, model / "pytorch_model.bin")
    changed(model, "config.json", num_labels=1, id2label={"0": "x"}, label2id={"x": 0})
    with pytest.raises(ValueError, match=r"must hold its weights in model\.safetensors.*pytorch_model\.bin alone.*convert"):
        OPENERS[who](model)
    assert not trace.exists()
    if other:
        with pytest.raises(ValueError, match="convert the weights to safetensors"):
            model_digest(model)


def test_pickles_beside_safetensors_are_left_alone(model):
    import torch
    from transformers import AutoModelForCausalLM

    torch.save({}, model / "pytorch_model.bin")
    refuse_other_weights(model)
    before = open_weights(AutoModelForCausalLM.from_pretrained, model).state_dict()
    (model / "pytorch_model.bin").unlink()
    after = open_weights(AutoModelForCausalLM.from_pretrained, model).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize("who", ["training", "engine", "digest"])
def test_an_adapter_beside_the_weights_is_refused(model, who):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, task_type="CAUSAL_LM"))
    adapted.save_pretrained(model)
    assert (model / "adapter_config.json").exists()
    with pytest.raises(
        ValueError, match=r"model_name_or_path must be a folder of whole weights.*adapter_config\.json.*merge it"
    ):
        {**OPENERS, "digest": model_digest}[who](model)
