"""The benchmark that CONTRIBUTING.md shows works as it stands there: it loads, asks, generates and scores."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from evaluation.generation.generate import generate
from evaluation.scoring.score import score_folder
from evaluation.types import Sampling
from flows.dag.graph import build
from flows.recipe.config import make_recipe
from tasks.keys import ROOT, code_digests
from tests.unit.evaluation.fake_engine import FakeEngine, no_progress

NAME = "evaluation.benchmarks.capitals"


@pytest.fixture
def capitals(tmp_path_factory, monkeypatch):
    """The module, as if its file lay among the benchmarks."""
    root = tmp_path_factory.mktemp("root")
    folder = root / "evaluation" / "benchmarks"
    folder.mkdir(parents=True)
    monkeypatch.setattr("bnf.plugins._ROOT", root)
    source = re.search(r'```python\n("""Capitals.*?)```', (ROOT / "CONTRIBUTING.md").read_text(), re.S).group(1)
    path = folder / "capitals.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(NAME, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, NAME, module)
    spec.loader.exec_module(module)
    return module


def test_it_is_short_enough_to_read(capitals):
    lines = [
        line
        for line in Path(capitals.__file__).read_text().splitlines()
        if line.strip() and not line.startswith(("#", "from", '"""'))
    ]
    assert len(lines) <= 30


def test_it_loads_generates_and_scores(capitals, tmp_path):
    rows = [
        {"country": "France", "capital": "Paris"},
        {"country": "Nauru", "capital": ""},
        {"country": "Peru", "capital": "Lima"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = capitals.load(str(path), None)
    assert [item["id"] for item in items] == ["capitals-0", "capitals-2"]

    def answer(messages):
        return '{"reasoning": "", "answer": " paris"}' if "France" in messages[0]["content"] else "no idea"

    generate(FakeEngine(answer), None, items, capitals.messages, Sampling(16), tmp_path / "out", no_progress)
    summary = score_folder("capitals", tmp_path / "out", tmp_path / "scores", source="file", limit=None)
    assert (summary["accuracy"], summary["no_answer"], summary["n_benchmark"]) == (50, 50, None)
    assert summary["left_out"] == {"no capital": 1}


def test_it_is_found_by_its_file_name_and_its_halves_have_keys_of_their_own(capitals, tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text("")
    folder = tmp_path / "evaluation" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "capitals.py").write_text(Path(capitals.__file__).read_text())
    for name in ("bnf", "tasks", "data", "flows", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path in ROOT.joinpath("evaluation").iterdir():
        if path.name != "benchmarks":
            (tmp_path / "evaluation" / path.name).symlink_to(path)
    for path in ROOT.joinpath("evaluation", "benchmarks").iterdir():
        if path.name != "capitals.py":  # somebody who follows CONTRIBUTING.md has it already
            (folder / path.name).symlink_to(path)
    monkeypatch.setattr("bnf.plugins._ROOT", tmp_path)
    for module in ("flows.dag.parts", "tasks.keys", "flows.recipe.paths"):
        monkeypatch.setattr(f"{module}.ROOT", tmp_path)
    benchmarks = {"capitals": {"source": str(tmp_path / "rows.jsonl")}}
    recipe = make_recipe({"name": "r", "model_name_or_path": "some/model", "evaluation": {"benchmarks": benchmarks}})
    nodes = {node.id: node for node in build(recipe)}
    assert {"generate/base/capitals", "score/base/capitals"} <= nodes.keys()
    generation, scoring = (code_digests(nodes[f"{stage}/base/capitals"].plugins) for stage in ("generate", "score"))
    assert f"{NAME}:load,messages" in generation and f"{NAME}:score" in scoring
