"""`bnf plan --estimate`: what a training will take, from the model's config.json alone, offline; and the preflight's check of memory."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bnf.data.groups import Completion, PromptGroup, write_groups
from bnf.data.sizes import data_sizes
from bnf.training.config import TrainConfig
from bnf.training.gpus import GIB
from flows.dag import memory_check as module
from flows.dag.estimate import Asked, estimate_recipe
from flows.dag.memory_check import memory_check
from flows.errors import RecipeError
from flows.recipe.config import load_recipe
from tasks.keys import ROOT
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.test_memory import LLAMA3_8B

RECIPE = """
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
data: {source: pairs, path: someone/pairs-that-nobody-fetched}
train: {nproc_per_node: 8, sharding: full}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    folder = tmp_path / "configs/meta-llama/Meta-Llama-3-8B-Instruct"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA3_8B))
    return tmp_path / "r.yaml"


def asked(recipe, *overrides, **values):
    return estimate_recipe(load_recipe(str(recipe), overrides), Asked(**values), recipe.parent / "home")


def command(recipe, *words, code=0):
    program = (
        "import socket, sys; socket.socket.connect = None; sys.argv = ['bnf', *sys.argv[1:]]\n"
        "from flows.cli import main\n"
        "try: main()\n"
        "finally: sys.stderr.write('torch' if 'torch' in sys.modules else 'quick')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "plan", str(recipe), *words], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_command_needs_neither_weights_nor_data_nor_a_network_nor_torch(recipe):
    done = command(recipe, "--estimate", "--gpu", "H100", "--groups", "60000", "--group-tokens", "900", "--json")
    found = json.loads(done.stdout)
    assert done.stderr.endswith("quick")
    assert found["parameters"] == found["trained_parameters"] == 8_030_261_248
    assert found["memory"]["weights"] == 4_015_130_624 and found["memory"]["total"] == sum(
        size for name, size in found["memory"].items() if name != "total"
    )
    [gpu] = found["gpus"]
    assert gpu["fits"] and gpu["hours"] > 0 and found["steps"] == 469 and found["tokens"] == 60000 * 900
    assert any("assumed, not measured" in line for line in found["assumptions"])


def test_the_table_names_the_parts_where_the_config_is_from_and_what_helps(recipe):
    said = command(recipe, "--estimate").stdout
    for words in (
        "8,030,261,248 parameters",
        "(beside the recipe)",
        "not prepared yet",
        "activations",
        "8 × H100",
        "a checkpoint",
    ):
        assert words in said
    [row] = [line for line in said.splitlines() if "8 × RTX4090" in line]
    assert " no " in row and "set train." in row


def test_options_that_nothing_would_read_are_refused(recipe):
    assert "--gpu must stand beside --estimate" in command(recipe, "--gpu", "H100", code=2).stderr
    assert (
        "--keep must stand without --estimate, got 'train'" in command(recipe, "--estimate", "--keep", "train", code=2).stderr
    )


def test_on_a_cpu_there_are_no_gpus_and_no_empty_table(recipe):
    said = command(recipe, "--estimate", "--gpu", "CPU").stdout
    assert "GiB a process" in said and "×" not in said and "\n\n\n" not in said


@pytest.mark.integration
def test_rows_that_are_named_hold_what_prepare_lets_through_and_figures_are_readable(recipe):
    # Two completions of 2048 tokens with their prompt.
    known = ("--groups", "58000", "--group-tokens", "900")
    for words in ((), known):
        said = command(recipe, "train.max_tokens_per_row=16384", "--estimate", *words).stdout
        assert "max_tokens_per_row=4096" in said and not re.search("max_tokens_per_row=(2048|1024)", said)
    assert re.search(r"H200 +139 +yes +0\.[1-9]", said) and "EFLOP" in said and "e+" not in said
    without = command(recipe, "--estimate").stdout
    assert not re.search("^on .*hours", without, flags=re.M), "no column of hours where the data aren't known"
    few = command(recipe, "--estimate", "--gpu", "H200", "--groups", "2", "--group-tokens", "90").stdout
    assert re.search(r"H200 +139 +yes +< 0\.1", few) and "what helps" not in few
    assert "\n\n\n" not in command(recipe, "--estimate", "--gpu", "cpu").stdout


def test_where_the_config_comes_from(recipe, tmp_path):
    assert asked(recipe).found == "beside the recipe"
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({**LLAMA3_8B, "num_hidden_layers": 1}))
    for given in (other, other / "config.json"):
        found = asked(recipe, model_config=str(given))
        assert (found.found, found.shape.layers) == ("--model-config", 1)
    folder = asked(recipe, f"model_name_or_path={other}")
    assert (folder.found, folder.shape.layers) == ("the model's folder", 1)
    with pytest.raises(RecipeError, match=r"--model-config must be a config.json or its folder, got .*r.yaml"):
        asked(recipe, model_config=str(recipe))
    with pytest.raises(
        RecipeError, match=r"give --model-config FILE, or put it beside the recipe as configs/no/such/config.json"
    ):
        asked(recipe, "model_name_or_path=no/such")


def test_what_is_asked_wrongly(recipe):
    with pytest.raises(RecipeError, match="--groups must be given with --group-tokens"):
        asked(recipe, groups=3)
    with pytest.raises(RecipeError, match="--gpu must be one of"):
        asked(recipe, gpu="abacus")
    (recipe.parent / "e.yaml").write_text("model_name_or_path: a/b\nevaluation: {benchmarks: [gsm8k]}\n")
    with pytest.raises(RecipeError, match="train must be in the recipe for an estimate"):
        asked(recipe.parent / "e.yaml")


def test_without_data_there_are_no_hours_and_this_is_said(recipe):
    found = asked(recipe)
    assert found.cost is None and all(gpu.hours is None for gpu in found.gpus)
    assert any("--groups N --group-tokens T give steps and hours" in line for line in found.assumptions)
    assert not any("peak rate" in line for line in found.assumptions)
    fp32 = asked(recipe, "train.bf16=false", groups=100, group_tokens=500)
    assert fp32.cost is not None and all(gpu.hours is None for gpu in fp32.gpus)
    assert any("no hours in fp32" in line for line in fp32.assumptions)
    odd = asked(recipe, "train.optim=galore_adamw")
    assert any("galore_adamw aren't known and count as AdamW's" in line for line in odd.assumptions)


@pytest.mark.parametrize(
    ("overrides", "tokens"),
    [
        # No row is longer than as many of the longest groups as it may hold.
        (("train.global_batch_size=8",), 1 * 90),
        (("train.global_batch_size=16",), 2 * 90),
        (("train.max_tokens_per_row=100",), 100),
        (("train.max_tokens_per_row=auto", "train.global_batch_size=16"), 2 * 90),
        (("train.max_tokens_per_row=auto", "train.nproc_per_node=1"), 32 * 90),
    ],
)
def test_data_that_are_prepared_are_counted(recipe, tmp_path, monkeypatch, overrides, tokens):
    lengths = [30 if number == 4 else 9 for number in range(40)]
    groups = [
        PromptGroup(f"g{number}", (3,) * 30, tuple(Completion((5,) * length, label) for label in (1, -1)))
        for number, length in enumerate(lengths)
    ]
    write_groups(tmp_path / "prepared", groups)
    known = SimpleNamespace(cached=True, artifact=SimpleNamespace(path=tmp_path / "prepared"))
    monkeypatch.setattr("flows.dag.estimate.forecast", lambda *_: {"prepare": known})
    found = asked(recipe, *overrides)
    assert found.seen == "40 groups, 1,962 tokens, the longest 90: prepared here"
    assert found.memory.row.tokens == tokens


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA3_8B))
    return tmp_path


def test_the_preflight_says_what_to_change_on_a_cpu(model, monkeypatch):
    monkeypatch.setattr(module, "device_kind", lambda: "cpu")
    config = TrainConfig.from_dict({"nproc_per_node": 2})
    check = memory_check(model, config, None, 200 * GIB)
    assert check is not None and check.problem is not None
    assert check.problem.startswith("memory, shared by 2 processes, must hold ")
    assert "got 200.0 GiB free; set train.sharding=full or " in check.problem
    fits = memory_check(model, config, None, 600 * GIB)
    assert fits is not None and fits.problem is None and "600.0 GiB free" in fits.seen and "longer its rows" in fits.seen
    unknown = memory_check(model, config, None, None)
    assert unknown is not None and unknown.problem is None and unknown.seen.startswith("unknown")


def test_the_preflight_looks_at_the_smallest_device(model, monkeypatch):
    monkeypatch.setattr(module, "device_kind", lambda: "cuda")
    monkeypatch.setattr(module, "devices", lambda: [("NVIDIA H200", 139 * GIB), ("NVIDIA A100", 80 * GIB)])
    whole = memory_check(model, TrainConfig(), None, None)
    assert whole is not None and whole.problem is not None
    assert (
        whole.problem.startswith("each device must hold ") and "got 80.0 GiB on a device; set train.lora_r=16" in whole.problem
    )
    shared = memory_check(model, TrainConfig(sharding="full", nproc_per_node=8), None, None)
    assert shared is not None and shared.problem is None


def test_rows_are_as_full_as_the_data_make_them(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "device_kind", lambda: "cpu")
    write_groups(tmp_path / "groups", random_groups(40))
    data = data_sizes(tmp_path / "groups", share_prompts=True)
    row = module._row(TrainConfig(global_batch_size=4), data)
    assert row.tokens == max(data.longest, round(4 * data.tokens / 40)) < 4096, "a row of a small batch is not full"
    assert module._row(TrainConfig(max_tokens_per_row=30), data).tokens == 30
    short, long = (memory_check(model, TrainConfig(max_tokens_per_row=tokens), data, 10**15) for tokens in (30, 100_000))
    assert short is not None and long is not None and short.seen != long.seen


def test_a_model_without_a_readable_config_has_no_such_check(tmp_path):
    assert memory_check(tmp_path, TrainConfig(), None, 1) is None
