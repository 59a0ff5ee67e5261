"""The recipe's section `reference`: which tasks it adds, which keys it changes, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.dag.reference_check import reference_checks
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from tasks.keys import ROOT
from tasks.names import TaskName
from tasks.nodes import Forecast
from tasks.stages import report

MODEL = "models/SmolLM2-135M-Instruct"
PAIRS = {"source": "pairs", "path": "data/samples/pairs.jsonl"}
ROUNDS = {
    "sample": {"source": "number_comparison", "rounds": 2, "temperature": 1.0},
    "label": {"labeler": "verifier"},
    "prepare": {},
}

pytestmark = pytest.mark.skipif(not (ROOT / MODEL).exists(), reason="the demonstration model is not there; run `make env`")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tiny model with the demonstration model's tokenizer, without its chat template."""
    folder = tmp_path_factory.mktemp("models") / "small"
    folder.mkdir()
    shutil.copy(ROOT / MODEL / "tokenizer.json", folder)
    settings = json.loads((ROOT / MODEL / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=49152, tie_word_embeddings=True)).save_pretrained(folder)
    return folder


def recipe(reference=None, train=None, **sections):
    given = {"name": "r", "model_name_or_path": MODEL, "train": train or {}, **(sections or {"data": PAIRS})}
    return make_recipe(given | ({} if reference is None else {"reference": reference}))


def nodes(*args, **kwargs):
    return {node.id: node for node in build(recipe(*args, **kwargs))}


def test_without_the_section_or_with_one_that_says_the_start_nothing_changes():
    before = nodes()
    assert nodes({}) == nodes({"temperature": 1}) == nodes({"model_name_or_path": MODEL}) == before
    assert not any(name.startswith("reference/") for name in before) and "resolve/reference_model" not in before


def test_another_model_has_a_pass_of_its_own_and_the_base_model_keeps_its(small):
    before, found = nodes(), nodes({"model_name_or_path": str(small)})
    assert found.keys() - before.keys() == {"resolve/reference_model", "reference/base"}
    reference, base, train = found["reference"], found["reference/base"], found["train"]
    assert reference.inputs == {"model": "resolve/reference_model", "data": "prepare", "tokenizer": "resolve/base"}
    assert reference.settings == before["reference"].settings, "another model has another key by its content"
    # The base model's pass is the one of a recipe without the section: a sweep over references computes it once.
    assert (base.settings, base.inputs) == (before["reference"].settings, before["reference"].inputs)
    assert train.inputs == before["train"].inputs | {"reference_model": "resolve/reference_model", "base": "reference/base"}
    assert found["analyze"].inputs["reference"] == "reference/base"
    assert TaskName.from_id("reference") == TaskName("reference") and TaskName.from_id("reference/base").role == "base"


def test_a_temperature_is_in_the_key_of_the_reference_alone():
    before, found = nodes(), nodes({"temperature": 2})
    assert found.keys() - before.keys() == {"reference/base"}
    assert found["reference"].settings == before["reference"].settings | {"temperature": 2.0}
    assert "temperature" not in found["reference/base"].settings and found["reference/base"].inputs["model"] == "resolve/base"
    assert found["train"].inputs == before["train"].inputs | {"base": "reference/base"}
    assert found["report"].settings["recipe"]["reference"]["temperature"] == 2
    assert "reference" not in before["report"].settings["recipe"]


def test_in_rounds_it_is_the_reference_of_all(small):
    found = nodes({"model_name_or_path": str(small)}, **ROUNDS)
    for number, start in ((1, "resolve/base"), (2, "train/round1")):
        train = found[f"train/round{number}"]
        assert found[f"reference/round{number}"].inputs["model"] == "resolve/reference_model"
        assert found[f"reference/base-round{number}"].inputs["model"] == "resolve/base"
        assert (train.inputs["model"], train.inputs["base"]) == (start, f"reference/base-round{number}")
        assert train.inputs.get("base_model") == (None if number == 1 else "resolve/base")
    assert found["analyze"].inputs["reference"] == "reference/base-round2"


def test_ratios_are_to_the_start_whatever_the_reference_is():
    ppo = {"objective": "ppo", "objective_options": {"kl_coef": 0.1}}
    found = nodes({"temperature": 2}, ppo, **ROUNDS)
    first, second = (found[f"train/round{number}"].inputs for number in (1, 2))
    assert first["old"] == first["base"] == "reference/base-round1"
    assert (second["old"], second["base"]) == ("reference/old-round2", "reference/base-round2")
    assert found[second["old"]].inputs["model"] == "train/round1" and second["reference_model"] == "resolve/base"


@pytest.mark.parametrize(
    ("reference", "kwargs", "said"),
    [
        ({"temperature": 0}, {}, "reference.temperature must be"),
        ({"revision": "main"}, {}, "revision must come with reference.model_name_or_path, got 'main' alone"),
        (
            {"temperature": 2},
            {"train": {"objective": "simpo"}},
            "for train.objective=simpo, which reads none .* such as bnf or dpo",
        ),
        (
            {"temperature": 2},
            {"train": {"objective": "ppo"}, **ROUNDS},
            "objective=ppo, .* or set train.objective_options.kl_coef",
        ),
        (
            {"temperature": 2},
            ROUNDS | {"sample": ROUNDS["sample"] | {"reference": "each_round"}},
            "sample.reference must be fixed beside the section reference, .* got each_round; remove",
        ),
    ],
)
def test_a_reference_that_nothing_reads_or_another_key_contradicts_is_refused(reference, kwargs, said):
    with pytest.raises(RecipeError, match=said):
        recipe(reference, **kwargs)


def test_without_a_training_there_is_no_reference():
    with pytest.raises(RecipeError, match="reference must be left out where nothing is trained"):
        make_recipe({"name": "e", "model_name_or_path": MODEL, "reference": {"temperature": 2}})


def test_a_reference_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"reference.model_name_or_path: .* must exist"):
        nodes({"model_name_or_path": str(tmp_path / "nowhere")})


def checks(folder, tmp_path, *, whole=False):
    wanted = recipe({"model_name_or_path": str(folder)})
    forecasts = [Forecast(node, None, False, None, []) for node in build(wanted)]
    found = preflight(wanted, forecasts, tmp_path) if whole else reference_checks(wanted, forecasts)
    return {check.name: check for check in found}


def test_the_preflight_looks_at_tokenizer_layers_and_memory(small, tmp_path, monkeypatch):
    found = checks(small, tmp_path, whole=True)
    assert found["reference small"].problem is None and found["memory of the reference"].problem is None
    assert found["model small"].problem is None, "a reference needs no chat template"

    other = shutil.copytree(small, tmp_path / "other")
    written = json.loads((other / "tokenizer.json").read_text())
    vocabulary = written["model"]["vocab"]
    vocabulary["Ġthe"], vocabulary["Ġof"] = vocabulary["Ġof"], vocabulary["Ġthe"]
    (other / "tokenizer.json").write_text(json.dumps(written))
    problem = checks(other, tmp_path)["reference other"].problem
    assert problem.startswith("reference.model_name_or_path must have the tokenizer of") and "(2 tokens differ)" in problem

    strange = shutil.copytree(small, tmp_path / "strange")
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps(config | {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}))
    problem = checks(strange, tmp_path)["reference strange"].problem
    assert problem.startswith("reference.model_name_or_path must be a model that a reference pass computes with")

    monkeypatch.setattr("flows.dag.reference_check.available_memory", lambda: 1000)
    assert "take a smaller one" in checks(small, tmp_path)["memory of the reference"].problem


def test_the_page_has_the_base_models_values(tmp_path):
    """Its shifts are from the base model; the values of the reference are another thing."""
    folders = {}
    for name in ("resolve/base", "reference", "reference/base"):
        folders[name] = tmp_path / name.replace("/", "-")
        folders[name].mkdir()
        manifest = {
            "key": "k",
            "fingerprint": "f",
            "seconds": 1.0,
            "versions": {},
            "machine": {},
            "files": {},
            "ingredients": {},
        }
        (folders[name] / "manifest.json").write_text(json.dumps(manifest))
    settings = {"models": {"base": MODEL}, "recipe": {"name": "r"}}
    assert report.collect(settings, folders).reference == folders["reference/base"]
    del folders["reference/base"]
    assert report.collect(settings, folders).reference == Path(folders["reference"])
