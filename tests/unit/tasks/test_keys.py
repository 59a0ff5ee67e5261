"""Keys: the same everywhere for the same thing, and different for what computes something else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import keys
from tasks.keys import ROOT, Ingredients, canonical, changes, code_digests


def test_canonical_form_does_not_depend_on_order():
    assert canonical({"b": [1, 2.5, None], "a": {"d": True, "c": "é"}}) == canonical(
        {"a": {"c": "é", "d": True}, "b": [1, 2.5, None]}
    )


@pytest.mark.parametrize("value", [{"a": {1, 2}}, {"a": [Path("x")]}, {1: 2}, object()])
def test_what_is_not_json_is_refused(value):
    with pytest.raises(TypeError, match="turn it into JSON first"):
        canonical(value)


def test_nan_is_refused():
    with pytest.raises(ValueError):
        canonical({"a": float("nan")})


@pytest.mark.integration
def test_key_is_the_same_in_another_process_folder_and_hash_seed(tmp_path):
    program = (
        "from tasks.keys import Ingredients, code_digests;"
        "print(Ingredients('train', {'b': 1, 'a': [1]}, {'x': 'f'}, code_digests(['tasks.stages.train'])).key())"
    )
    found = set()
    for seed, folder in (("0", tmp_path), ("1", Path("/")), ("2", ROOT)):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    here = Ingredients("train", {"a": [1], "b": 1}, {"x": "f"}, code_digests(["tasks.stages.train"]))
    assert found == {here.key() + "\n"}


def test_changes_name_the_dotted_key_with_old_and_new_value():
    old = {"settings": {"learning_rate": 1e-5, "same": 1}, "inputs": {"model": "x"}}
    new = {"settings": {"learning_rate": 2e-5, "same": 1}, "inputs": {"model": "x", "data": "y"}}
    assert changes(old, new) == [
        {"key": "inputs.data", "old": None, "new": "y"},
        {"key": "settings.learning_rate", "old": 1e-5, "new": 2e-5},
    ]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project in place of this one; returns a function that writes its modules and gives an entry's digests."""
    monkeypatch.setattr(keys, "ROOT", tmp_path)

    def digests(entry: str, **modules: str) -> dict[str, str]:
        for name, text in modules.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for cached in (keys._tree, keys._module, keys._slice):
            cached.cache_clear()
        return code_digests([entry])

    return digests


def test_comments_docstrings_and_formatting_do_not_count(project):
    before = project("bnf.loss", bnf__loss='"""Loss."""\ndef loss(x):\n    """Doc."""\n    return x + 1\n')
    after = project("bnf.loss", bnf__loss='"""Other."""\n# why\ndef loss(x):\n\n    return (x + 1)  # reason\n')
    assert before == after
    assert before != project("bnf.loss", bnf__loss="def loss(x):\n    return x + 2\n")


def test_code_has_the_same_digest_in_every_version_of_python(project):
    """`ast.dump` would not do: 3.12 gives functions and classes `type_params`, 3.13 leaves empty fields out."""
    text = "class A(B):\n    x: int = None\ndef f(a, *, b=1, **c) -> str:\n    return f'{a!r:>{b}}' if c else {**c, 'd': [1.5, b'', ...]}\n"
    assert project("bnf.loss", bnf__loss=text) == {"bnf.loss": "d3eee813f65495da10ad9821467a365f"}


def test_imports_are_followed_through_functions_and_packages(project):
    first = project(
        "tasks.stage",
        tasks__stage="def run():\n    from bnf import helper\n    helper.go()\n",
        bnf__helper="from bnf.deep import value\nimport json\ndef go(): return value\n",
        bnf__deep="value = 1\n",
    )
    assert set(first) == {"tasks.stage", "bnf.helper", "bnf.deep"}
    second = project("tasks.stage", bnf__deep="value = 2\n")
    assert {name for name in first if first[name] != second[name]} == {"bnf.deep"}


def test_a_slice_holds_only_what_its_functions_use(project):
    benchmark = """
from evaluation.parsing import number
LIMIT = 5
def _gold(item): return item
def load(): return [_gold(i) for i in range(LIMIT)]
def score(item, text): return number(text) == _gold(item)
"""
    parts = {"evaluation__b": benchmark, "evaluation__parsing": "def number(x): return int(x)\n"}
    load, score = project("evaluation.b:load", **parts), project("evaluation.b:score")
    assert set(load) == {"evaluation.b:load"}
    assert set(score) == {"evaluation.b:score", "evaluation.parsing"}
    edited = benchmark.replace("number(text) ==", "number(text) !=")
    assert project("evaluation.b:load", evaluation__b=edited) == load
    assert project("evaluation.b:score") != score
    assert project("evaluation.b:load", evaluation__b=benchmark.replace("LIMIT = 5", "LIMIT = 6")) != load


def test_a_slice_names_the_function_that_is_missing(project):
    with pytest.raises(ValueError, match="must define messages"):
        project("evaluation.b:messages", evaluation__b="def load(): return []\n")


def test_every_stage_of_this_project_has_code():
    for path in (ROOT / "tasks" / "stages").glob("[!_]*.py"):
        assert f"tasks.stages.{path.stem}" in code_digests([f"tasks.stages.{path.stem}"])
