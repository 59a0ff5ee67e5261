"""Every benchmark and every engine keeps its kind's contract, and a new engine is one file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bnf.plugins import load, names, own_names
from evaluation.benchmarks import BENCHMARKS, CONVERSATIONS, ZEROEVAL_BENCHMARKS
from evaluation.engines import ENGINES, is_remote
from evaluation.scoring.zeroeval import DATASETS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", names(BENCHMARKS))
def test_a_benchmark_is_scored_by_a_rule_or_by_a_judge(name):
    benchmark = load(BENCHMARKS, name)
    assert bool(own_names(benchmark, ["score"])) != bool(benchmark.FORMS)
    assert (
        bool(benchmark.LM_EVAL_TASKS)
        == (benchmark.LM_EVAL_MAIN is not None)
        == bool(own_names(benchmark, ["lm_eval_document"]))
    )
    assert (benchmark.NUM_TURNS > 1) == bool(own_names(benchmark, ["temperature"]))


def test_those_with_more_turns_and_those_of_zeroeval_keep_contracts_of_their_own():
    assert load(CONVERSATIONS, "mt_bench").NUM_TURNS == 2
    for name in DATASETS:
        load(ZEROEVAL_BENCHMARKS, name)
    with pytest.raises(TypeError, match=r"messages\(\) doesn't take answers; temperature\(\) is missing"):
        load(CONVERSATIONS, "gsm8k")


def test_what_a_benchmark_leaves_out_is_refused_where_it_is_asked_for():
    with pytest.raises(ValueError, match="must be scored by a rule, got MT-bench"):
        load(BENCHMARKS, "mt_bench").score({}, "", "stop")
    with pytest.raises(ValueError, match=r"GSM8K, which takes no reference answers, got refs\.jsonl"):
        load(BENCHMARKS, "gsm8k").read_references("refs.jsonl")


@pytest.mark.parametrize("name", names(ENGINES))
def test_an_engine_says_where_it_runs_and_whose_version_counts(name):
    engine = load(ENGINES, name)
    assert is_remote(name) == engine.REMOTE == (not engine.PACKAGES)
    assert not is_remote("reward_model")


NEW_ENGINE = """
LIBRARY = "json"
PACKAGES = ("pyyaml",)
SUPPORTS = frozenset({"choices"})


def environment():
    return {"ECHO": "1"}


def open(model, *, loud=False):
    return (model, loud)
"""
SCRIPT = """
import json
from flows.dag.graph import build
from flows.recipe.config import make_recipe
from evaluation.engines import environment, open_engine
from tasks.keys import code_digests

values = {
    "name": "r",
    "model_name_or_path": "a/b",
    "evaluation": {"engine": "echo", "benchmarks": {"gsm8k": {"source": "sample"}}},
    "judge": {"engine": "echo", "model_name_or_path": "c/d", "benchmarks": {"mt_bench": {"source": "sample"}}},
}
recipe = make_recipe(values)
nodes = {node.id: node for node in build(recipe)}
generation = nodes["generate/base/gsm8k"]
print(json.dumps({
    "version": generation.settings["engine"],
    "keyed": "evaluation.engines.echo" in code_digests(generation.plugins),
    "said": recipe.judge.said,
    "environment": environment("echo"),
    "opened": open_engine("echo", "m", loud=True),
}))
"""


def test_a_new_engine_is_one_file(tmp_path):
    for package in ("bnf", "data", "evaluation", "flows", "tasks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "evaluation" / "engines" / "echo.py").write_text(NEW_ENGINE)

    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": ""}, capture_output=True
    )
    assert run.returncode == 0, run.stderr.decode()
    found = json.loads(run.stdout)
    assert found["version"]["name"] == "echo" and found["version"]["version"]
    assert found["keyed"] and found["said"] == "choice"
    assert found["environment"] == {"ECHO": "1"} and found["opened"] == ["m", True]
