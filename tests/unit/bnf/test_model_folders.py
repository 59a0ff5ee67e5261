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
from bnf.model.templates import write_templated
from bnf.model_folders import is_own, open_config, open_tokenizer, open_weights, refuse_other_weights
from bnf.training.policies import save_policy
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
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
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


@pytest.mark.parametrize("who", ["training", "engine", "digest"])
def test_an_index_that_leads_out_of_the_folder_is_refused(model, tmp_path, who):
    (model / "model.safetensors").rename(tmp_path / "other.safetensors")
    (model / "x.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes())
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../other.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=r"model_name_or_path must have all of its weights in its folder, got '\.\./other\.safetensors'"
    ):
        {**OPENERS, "digest": model_digest}[who](model)


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


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "home" / "id_ed25519"
    path.parent.mkdir()
    path.write_text("a key of this machine")
    return path


@pytest.mark.parametrize("name", ["vocab.txt", "added_tokens.json", "additional_chat_templates/x.jinja"])
def test_a_link_to_another_file_of_this_machine_is_refused_and_never_copied(model, secret, tmp_path, name):
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).symlink_to(secret)
    said = rf"model_name_or_path must be a folder of files of its own.*{name}, which leads to .*id_ed25519; put a copy"
    with pytest.raises(ValueError, match=said):
        model_digest(model)
    policy = tmp_path / "policy"
    with pytest.raises(ValueError, match=said):
        save_policy(load_model(model), model, policy)
    assert not policy.exists() and not list(tmp_path.rglob("policy*"))


def test_a_folder_that_leads_elsewhere_is_refused_too(model, secret):
    (model / "additional_chat_templates").symlink_to(secret.parent)
    (secret.parent / "notes.jinja").write_text("private")
    with pytest.raises(ValueError, match=r"which leads to .*notes\.jinja"):
        model_digest(model)


def test_links_of_the_hubs_cache_and_of_a_folder_of_links_are_followed(model, tmp_path, secret):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(path for path in model.iterdir() if path.is_file())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert model_digest(snapshot) == model_digest(model)
    # As a run with `chat_template` has it.
    write_templated(snapshot, made := tmp_path / "made", "{{ messages }}")
    model_digest(made)
    save_policy(load_model(made), made, tmp_path / "policy")
    assert (tmp_path / "policy" / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    (tmp_path / "here").symlink_to(model)
    assert model_digest(tmp_path / "here") == model_digest(model)
    # Such a folder opens no way out.
    (snapshot / "vocab.txt").symlink_to(secret)
    (made / "vocab.txt").symlink_to((snapshot / "vocab.txt").absolute())
    (made / "merges.txt").symlink_to(secret)
    assert not is_own(made / "vocab.txt", made) and not is_own(made / "merges.txt", made) and is_own(made / "config.json", made)
    (blobs / "9").symlink_to(secret)
    (snapshot / "merges.txt").symlink_to("../../blobs/9")
    assert not is_own(snapshot / "merges.txt", snapshot)
