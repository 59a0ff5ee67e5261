"""What only shows, refuses or permits is in no key: its edit makes nobody train again."""

import ast

import pytest

from bnf.plugins import names
from evaluation.engines import ENGINES
from flows.dag.graph import build
from flows.recipe.config import make_recipe
from tasks import keys
from tasks.keys import PROJECT_PACKAGES, ROOT, WITHOUT_EFFECT, _imports, _tree, code_digests


@pytest.mark.parametrize("stage", ["reference", "train", "analyze"])
def test_progress_and_its_like_are_in_no_key_and_what_computes_is(stage):
    code = code_digests([f"tasks.stages.{stage}"])
    assert not WITHOUT_EFFECT & code.keys()
    assert {"bnf.data.packing", "bnf.model.logps", "bnf.model.loading"} <= code.keys()


SHOWN = {"evaluation.formats", "evaluation.progress"}
PAID = {
    "name": "paid",
    "model_name_or_path": "a/b",
    "evaluation": {"engine": "openai", "model": "m", "benchmarks": {"math": {"source": "sample"}}},
    "judge": {"engine": "openai", "model": "m", "benchmarks": {"mt_bench": {"source": "sample"}}},
}


@pytest.mark.parametrize("stage", ["generate", "judge", "sample", "label", "score", "cross_check", "lm_eval"])
def test_durations_progress_and_notes_on_spending_are_in_no_key_but_the_reports(stage):
    engines = [f"evaluation.engines.{name}" for name in names(ENGINES)]
    code = code_digests([f"tasks.stages.{stage}", *engines, "evaluation.benchmarks.math"])
    assert not SHOWN & code.keys()
    assert "evaluation.benchmarks.math" in code


def test_how_numbers_are_shown_is_in_the_reports_key():
    (report,) = [node for node in build(make_recipe(PAID)) if node.stage == "report"]
    assert "evaluation.formats" in code_digests(["tasks.stages.report", *report.plugins])


def test_an_edited_duration_or_note_changes_the_report_alone(monkeypatch):
    nodes, tree = build(make_recipe(PAID)), keys._tree

    def digests():
        for cached in (keys._module, keys._slice):
            cached.cache_clear()
        return {node.id: code_digests([f"tasks.stages.{node.stage}", *node.plugins]) for node in nodes}

    def edited(path):
        shows = ".".join(path.relative_to(ROOT).with_suffix("").parts) in SHOWN
        return ast.Module([*tree(path).body, *([ast.Pass()] if shows else [])], type_ignores=[])

    before = digests()
    monkeypatch.setattr(keys, "_tree", edited)
    after = digests()
    monkeypatch.undo()
    assert digests() == before
    assert {name for name in before if before[name] != after[name]} == {"report"}


@pytest.mark.parametrize("module", sorted(WITHOUT_EFFECT))
def test_nothing_that_computes_is_hidden_behind_them(module):
    """They import none of the project's modules, so that no other is left out with them."""
    assert module.split(".")[0] in PROJECT_PACKAGES
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    assert not _imports(_tree(path).body, path)
