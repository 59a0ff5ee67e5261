"""The recipes of the paper: SimPO's published settings, data in the layout that the hub's sets have, and the models that they name."""

import json
from pathlib import Path

import pytest

from bnf.training.gpus import GIB
from data.parse import Parser
from data.preparing.config import PrepareConfig
from data.preparing.prepare import prepare_sources
from data.reading.records import DataSource, Raw
from data.rows import Candidate
from flows.dag.estimate import Asked, estimate_recipe
from flows.dag.graph import build
from flows.dag.plan import make_plan
from flows.dag.preflight import problems
from flows.dag.selection import Options
from flows.recipe.config import load_recipe, make_recipe
from tasks.keys import ROOT
from tests.unit.data.helpers import MODEL, ledger, needs_model, texts
from tests.unit.evaluation.fake_engine import no_progress

PAPER = ROOT / "flows" / "recipes" / "paper"
# The 7–9B models of the paper; each on one node.
SETTINGS = ("mistral-7b-base", "mistral-7b-instruct", "llama3-8b-base", "llama3-8b-instruct", "gemma2-9b-it")
TRAINED = (*SETTINGS, "llama3-70b-instruct")
REASONING = {"gsm8k", "math_l5", "mmlu_redux", "crux"}
# Of the models' cards, or of the index of their safetensors files.
PARAMETERS = {
    "alignment-handbook/zephyr-7b-sft-full": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.2": 7_241_732_096,
    "princeton-nlp/Llama-3-Base-8B-SFT": 8_030_261_248,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "google/gemma-2-9b-it": 9_241_705_984,
    "meta-llama/Meta-Llama-3-70B-Instruct": 70_553_706_496,
}


def _turns(prompt, reply):
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


def _binarized(number):
    """A row with the columns of HuggingFaceH4/ultrafeedback_binarized, split train_prefs."""
    prompt, chosen, rejected = f"Say {number}", f"{number}", f"It is {number + 1}"
    return {
        "prompt": prompt,
        "prompt_id": f"{number:064x}",
        "chosen": _turns(prompt, chosen),
        "rejected": _turns(prompt, rejected),
        "messages": _turns(prompt, chosen),
        "score_chosen": 8.5,
        "score_rejected": 8.5 if number == 3 else 6.0,
    }


def _sampled(number):
    """A row with the columns of princeton-nlp/llama3-ultrafeedback-armorm and of the sets of the other models."""
    prompt, replies, rewards = (
        f"Say {number}",
        [f"{number}", "No", "Maybe", "Perhaps", "Who knows"],
        [0.18, 0.07, 0.1, 0.11, 0.12],
    )
    return {
        "prompt_id": f"{number:064x}",
        "prompt": prompt,
        "all_generated_responses": replies,
        "all_rm_scores": rewards,
        "chosen": _turns(prompt, replies[0]),
        "rejected": _turns(prompt, replies[1]),
    }


LAYOUTS = {"ultrafeedback": _binarized, "simpo": _sampled}


def test_every_recipe_of_the_paper_is_looked_at():
    assert {path.stem for path in PAPER.glob("*.yaml")} == {*TRAINED, "judged"}


@pytest.mark.parametrize("name", TRAINED)
def test_the_training_has_simpos_settings(name):
    recipe = load_recipe(f"flows/recipes/paper/{name}.yaml")
    config = recipe.train_config()
    assert (config.objective, config.global_batch_size, config.num_train_epochs, config.max_steps) == ("bnf", 128, 1, -1)
    assert (config.lr_scheduler_type, config.warmup_ratio, config.weight_decay) == ("cosine", 0.1, 0)
    assert config.learning_rate in (3e-7, 5e-7, 8e-7, 1e-6)
    assert (recipe.prepare.max_length, recipe.prepare.max_prompt_length) == (2048, 1800)
    # What the learning rate is chosen on.
    assert recipe.prepare.dev_fraction == 0.02
    assert config.sharding == "full" and config.nproc_per_node == 8 and config.num_nodes == (2 if "70b" in name else 1)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_policy_is_evaluated_on_the_papers_reasoning_benchmarks(name):
    assert set(load_recipe(f"flows/recipes/paper/{name}.yaml").evaluation.benchmarks) == REASONING


def test_the_policy_of_a_recipe_can_be_judged_as_in_the_paper():
    recipe = load_recipe("flows/recipes/paper/judged.yaml")
    assert set(recipe.evaluation.benchmarks) == REASONING
    assert (recipe.judge.engine, recipe.judge.model) == ("openai", "gpt-4-1106-preview")
    assert set(recipe.judge.benchmarks) == {"arena_hard"} and recipe.judge.orders == "both"


@pytest.mark.parametrize("name", TRAINED)
def test_the_source_reads_rows_of_the_hubs_set(name):
    [source] = load_recipe(f"flows/recipes/paper/{name}.yaml").sources()
    assert source.split == ("train_prefs" if source.source == "ultrafeedback" else None)
    record = LAYOUTS[source.source](1)
    _, read = Parser(DataSource(source.source, "x", source.columns))(Raw("", 1, record))
    scores = (8.5, 6.0) if source.source == "ultrafeedback" else (0.18, 0.07)
    assert read.messages == _turns("Say 1", "")[:1]
    sides = (
        Candidate(record["chosen"][1]["content"], 1, scores[0]),
        Candidate(record["rejected"][1]["content"], -1, scores[1]),
    )
    assert read.candidates == sides


@needs_model
@pytest.mark.parametrize("source", LAYOUTS)
def test_a_small_set_in_the_hubs_layout_is_planned_and_prepared(source, tmp_path):
    split = "train_prefs" if source == "ultrafeedback" else "train"
    data = tmp_path / "data" / f"{split}-00000-of-00001.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps(LAYOUTS[source](number)) + "\n" for number in range(8)))
    name = "mistral-7b-base" if source == "ultrafeedback" else "llama3-8b-instruct"
    # What the demonstration model and a machine without a GPU can do; the rest is the recipe's.
    recipe = load_recipe(
        f"flows/recipes/paper/{name}.yaml",
        [
            *(f"model_name_or_path={MODEL}", f"data.path={data.parent}", "evaluation={}"),
            *("train.nproc_per_node=1", "train.sharding=none", "train.global_batch_size=4"),
        ],
    )
    checks = make_plan(tmp_path / "home", recipe, Options()).checks
    assert problems(checks) == []
    assert f"source {source}" in {check.name for check in checks}

    [one] = recipe.sources()
    config = PrepareConfig(**recipe.prepare.model_dump(include={"max_length", "max_prompt_length", "truncation", "ties"}))
    prepare_sources([DataSource(**one.model_dump())], MODEL, tmp_path / "out", config, num_proc=1, progress=no_progress)
    rows, counts = ledger(tmp_path / "out")
    ties = {3} if source == "ultrafeedback" else set()
    assert [row["outcome"] for row in rows] == ["tie" if number in ties else "kept" for number in range(8)]
    # Every text of a row is read, or repeats what is.
    assert "columns_not_read" not in counts
    record = LAYOUTS[source](5)
    kept = [(record[side][1]["content"], label) for side, label in (("chosen", 1), ("rejected", -1))]
    assert texts(tmp_path / "out")["Say 5"] == kept and len(texts(tmp_path / "out")) == 8 - len(ties)


@pytest.mark.parametrize("name", TRAINED)
def test_every_stage_of_the_recipe_has_a_node(name):
    nodes = build(load_recipe(f"flows/recipes/paper/{name}.yaml"))
    stages = {node.stage for node in nodes}
    trains = {"resolve", "prepare", "reference", "train", "analyze", "report"}
    if name in SETTINGS:
        assert stages == trains | {"contamination", "generate", "score"}
    else:
        # An engine takes one GPU, which doesn't hold this model: so every stage of the recipe can be run, without options.
        assert stages == trains


@pytest.mark.parametrize("name", TRAINED)
def test_the_lock_for_gpus_has_the_packages_of_the_recipe(name):
    config = load_recipe(f"flows/recipes/paper/{name}.yaml").train_config()
    needed = {"torch-optimi"} if config.weights == "bf16" else set()
    locked = {line.split("==")[0] for line in (ROOT / "requirements" / "gpu.txt").read_text().splitlines()}
    assert needed <= locked and (config.optim, config.load_in_4bit, config.lora_r) == ("adamw_torch_fused", False, 0)


@pytest.fixture(scope="module")
def named():
    return {load_recipe(f"flows/recipes/paper/{name}.yaml").model_name_or_path for name in TRAINED}


def test_the_models_configurations_lie_beside_the_recipes(named):
    there = {path.parent.relative_to(PAPER / "configs").as_posix() for path in PAPER.glob("configs/*/*/config.json")}
    assert there == named == PARAMETERS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_configuration_makes_a_model_of_a_supported_family_with_the_published_number_of_parameters(name):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from bnf.model.families import check_model

    config = AutoConfig.from_pretrained(Path(PAPER, "configs", name))
    check_model(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    # A tied head is the embedding itself, and counts once.
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


LORA_80GB = "sharding=none nproc_per_node=1 lora_r=16 gradient_checkpointing=true"


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("llama3-8b-instruct", "", "Llama-3-8B {}, "),
        ("mistral-7b-base", "", "Mistral-7B {}, "),
        ("gemma2-9b-it", "", "Gemma-2-9B {} "),
        ("llama3-8b-instruct", LORA_80GB, "| Llama-3-8B {} |"),
        ("llama3-8b-instruct", f"{LORA_80GB} load_in_4bit=true weights=bf16 max_tokens_per_row=4096", "| Llama-3-8B {} |"),
        ("llama3-70b-instruct", "", "`max_tokens_per_row: 4096` | {} |"),
        ("llama3-70b-instruct", "num_nodes=1 lora_r=16", "`gradient_checkpointing: true` | {} |"),
    ],
)
def test_the_documents_figures_are_those_of_the_estimate(name, overrides, said, tmp_path):
    recipe = load_recipe(f"flows/recipes/paper/{name}.yaml", [f"train.{override}" for override in overrides.split()])
    found = estimate_recipe(recipe, Asked(gpu="H100"), tmp_path)
    assert found.found == "beside the recipe" and found.gpus[0].fits
    assert said.format(round(found.memory.device.total / GIB)) in (ROOT / "docs" / "scaling.md").read_text()


def test_the_documents_figure_of_a_smaller_model_is_that_of_the_estimate(tmp_path):
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "vocab_size": 49152}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": True, "torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **sizes, **heads}))
    values = {
        "name": "r",
        "model_name_or_path": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "data": {"source": "pairs", "path": "x"},
    }
    asked = Asked(gpu="A100-40GB", model_config=str(tmp_path))
    found = estimate_recipe(make_recipe({**values, "train": {}}), asked, tmp_path)
    assert found.shape.parameters == 1_711_376_384 and found.gpus[0].fits
    assert (
        f"| the defaults | SmolLM2-1.7B {round(found.memory.device.total / GIB)} |"
        in (ROOT / "docs" / "scaling.md").read_text()
    )


# docs/scaling.md names these combinations: the recipe's settings where a GPU's bytes are those of its data sheet.
LORA = tuple(LORA_80GB.split())
HARDWARE = {
    "8 x 80 GB": (80e9, ()),
    "80 GB": (80e9, LORA),
    "24 GB": (24e9, (*LORA, "load_in_4bit=true", "weights=bf16", "max_tokens_per_row=4096")),
}


@pytest.mark.parametrize(
    ("name", "hardware"),
    [*((name, hardware) for name in SETTINGS for hardware in HARDWARE), ("llama3-70b-instruct", "8 x 80 GB")],
)
def test_the_estimate_says_that_the_training_fits(name, hardware):
    from bnf.model.shapes import read_shape
    from bnf.training.memory import RowSizes, estimate

    gpu_bytes, overrides = HARDWARE[hardware]
    recipe = load_recipe(f"flows/recipes/paper/{name}.yaml", [f"train.{override}" for override in overrides])
    config = recipe.train_config()
    shape = read_shape(PAPER / "configs" / recipe.model_name_or_path / "config.json")
    assert shape.parameters == PARAMETERS[recipe.model_name_or_path]
    # All tokens of a row are completions, but for a short prompt: the most that the head can have to do.
    found = estimate(shape, config, RowSizes(config.max_tokens_per_row, 248, (1800, 1800)), "cuda")
    assert found.device.total < gpu_bytes
    # With whole float32 weights on a device, as in a training of one process, none of them would.
    alone = load_recipe(
        f"flows/recipes/paper/{name}.yaml", ["train.sharding=none", "train.nproc_per_node=1", "train.num_nodes=1"]
    )
    assert estimate(shape, alone.train_config(), found.row, "cuda").device.total > 80e9
