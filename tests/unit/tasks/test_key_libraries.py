"""Versions of libraries that decide results are part of the keys of the stages that use them, and of no others."""

import importlib.metadata

import pytest

from flows.dag.graph import build
from flows.recipe.config import load_recipe
from tasks import keys
from tasks.keys import LIBRARIES, ROOT, code_digests, library_versions, package_version
from tasks.nodes import Node, forecast, ingredients
from tasks.store import Artifact, Store

MATH = LIBRARIES["math_verify"]
RECIPE = ROOT / "flows" / "recipes" / "quickstart.yaml"


def _nodes(*overrides):
    return {node.id: node for node in build(load_recipe(str(RECIPE), overrides))}


def _key(node, tmp_path):
    made = {role: Artifact("stage", "key", "fingerprint", tmp_path) for role in node.inputs}
    return ingredients(node, made, Store(tmp_path / "artifacts")).key()


@pytest.fixture
def upgraded(monkeypatch):
    def upgrade(package):
        real = importlib.metadata.version
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0" if name == package else real(name))

    return upgrade


@pytest.mark.parametrize("package", ["math-verify", "latex2sympy2_extended", "sympy"])
def test_an_upgrade_of_math_verify_rescores_math_and_nothing_else(tmp_path, upgraded, package):
    benchmarks = "evaluation.benchmarks={math: {source: sample}, math_l5: {source: sample}, gsm8k: {source: sample}}"
    nodes = _nodes(benchmarks, "evaluation.cross_check=false")
    before = {name: _key(node, tmp_path) for name, node in nodes.items()}
    upgraded(package)
    after = {name: _key(node, tmp_path) for name, node in nodes.items()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"score/{model}/{name}" for model in ("base", "aligned") for name in ("math", "math_l5")}


def test_an_upgrade_of_the_language_model_prepares_again(tmp_path, upgraded):
    node = _nodes()["prepare"]
    before = _key(node, tmp_path)
    upgraded("py3langid")
    assert _key(node, tmp_path) != before


@pytest.mark.parametrize("package", ["lm-eval", "math-verify", "sympy"])
def test_an_upgrade_of_what_lm_eval_compares_with_cross_checks_again(tmp_path, upgraded, package):
    overrides = ("evaluation.benchmarks={math: {source: sample}}", "evaluation.cross_check=true")
    before = _key(_nodes(*overrides)["cross_check/base/math"], tmp_path)
    upgraded(package)
    assert _key(_nodes(*overrides)["cross_check/base/math"], tmp_path) != before


def test_an_artifact_of_before_says_which_library_changed(tmp_path, upgraded):
    store = Store(tmp_path / "artifacts")
    node = Node("score", {"benchmark": "math"}, plugins=["evaluation.benchmarks.math:second_metrics"])
    made_of = ingredients(node, {}, store)
    work = store.work_folder("score", made_of.key())
    (work / "out").write_text("scores")
    last = {node.id: store.commit(made_of, work, content=("out",), fingerprint=None, about={"seconds": 0})}
    assert forecast([node], store, last)[node.id].cached
    upgraded("math-verify")
    (entry,) = forecast([node], store, last).values()
    assert not entry.cached
    assert entry.changed == [{"key": "libraries.math-verify", "old": importlib_version("math-verify"), "new": "99.0"}]


def importlib_version(name):
    return next(found.version for found in importlib.metadata.distributions(name=name))


def test_every_library_that_counts_is_installed_and_imported_by_some_stage():
    benchmarks = ["evaluation.benchmarks.math:second_metrics", "evaluation.benchmarks.ifeval:score"]
    code = code_digests(["tasks.stages.prepare", *benchmarks])
    versions = library_versions(code)
    assert set(versions) == {package for packages in LIBRARIES.values() for package in packages}
    assert None not in versions.values()
    assert library_versions(code_digests(["tasks.stages.train"])) == {}


def test_imports_anywhere_in_a_module_count(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "ROOT", tmp_path)
    monkeypatch.setattr(keys, "LIBRARIES", {"sympy": ("sympy",), "math_verify": ("none-such",)})
    (tmp_path / "bnf").mkdir()
    (tmp_path / "bnf" / "a.py").write_text("def f():\n    from sympy.core import S\n    return S\n")
    (tmp_path / "bnf" / "b.py").write_text("from . import sympy\nimport math_verify.parser as p\n")
    assert library_versions(["bnf.a:f"]) == {"sympy": package_version("sympy")}
    assert library_versions(["bnf.b"]) == {"none-such": None}
