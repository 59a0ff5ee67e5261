"""What only shows, refuses or permits is in no key: its edit makes nobody train again."""

import ast
from pathlib import Path

import pytest

from bnf.plugins import names
from evaluation.engines import ENGINES
from flows.dag.graph import build
from flows.recipe.config import make_recipe
from tasks import keys
from tasks.keys import PROJECT_PACKAGES, ROOT, SHOWS_OR_REFUSES, WITHOUT_EFFECT, _imports, _tree, code_digests
from tasks.stages import STAGES


@pytest.mark.parametrize("stage", ["reference", "train", "analyze"])
def test_progress_and_its_like_are_in_no_key_and_what_computes_is(stage):
    code = code_digests([f"tasks.stages.{stage}"])
    assert not (WITHOUT_EFFECT | SHOWS_OR_REFUSES) & code.keys()
    assert {"bnf.data.packing", "bnf.model.logps", "bnf.model.loading"} <= code.keys()


@pytest.mark.parametrize("stage", ["reference", "analyze", "measure"])
def test_how_a_policy_is_trained_is_in_no_key_of_a_pass(stage):
    """An edit to an objective, or to the training, computes no reference anew."""
    code = code_digests([f"tasks.stages.{stage}"])
    assert not [module for module in code if module.startswith(("bnf.training", "bnf.objectives"))]


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


@pytest.mark.parametrize("stage", names(STAGES))
def test_what_a_run_and_a_plan_only_say_is_in_no_key(stage):
    engines = [f"evaluation.engines.{name}" for name in names(ENGINES)]
    assert not {"bnf.progress", "tasks.memory", "tasks.partial"} & code_digests([f"tasks.stages.{stage}", *engines]).keys()


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


@pytest.mark.parametrize("module", sorted(SHOWS_OR_REFUSES))
def test_what_they_import_counts_all_the_same(module):
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    imported = _imports(_tree(path).body, path)
    assert imported <= code_digests(imported).keys() | WITHOUT_EFFECT | SHOWS_OR_REFUSES
    assert imported <= code_digests([module]).keys() | WITHOUT_EFFECT | SHOWS_OR_REFUSES


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        # A new metric, and one that is computed otherwise.
        (
            "bnf/training/metrics.py",
            "class StepMetrics",
            "def longest(row):\n    return row.lengths.max()\n\n\nclass StepMetrics",
            False,
        ),
        ("bnf/training/metrics.py", "(margins > 0)", "(margins >= 0)", False),
        ("bnf/training/metrics.py", "kl / len(samples)", "kl", False),
        ("bnf/training/summary.py", "padding_share=0.0", "padding_share=1.0", False),
        ("bnf/training/remedies.py", "or fewer steps", "or other data", False),
        ("bnf/progress.py", "tokens/s", "tokens a second", False),
        ("bnf/training/losses.py", "max(totals.num_pairs, 1)", "1", True),
        ("bnf/training/row_trainer.py", "loss * num_processes()", "loss * 2", True),
        ("bnf/training/schedule.py", "/ 2 * left", "/ 3 * left", True),
        ("bnf/objectives/bnf.py", "clamp(max=0)", "clamp(max=1)", True),
        # What decides whether there is a policy.
        ("bnf/training/identity.py", "1e-6", "1e-5", True),
        ("bnf/training/collapse.py", "_MOST_NATS_DOWN = 1.0", "_MOST_NATS_DOWN = 2.0", True),
        ("bnf/training/dev.py", "not each.is_terminated", "each.is_terminated", True),
    ],
)
def test_a_logged_metric_trains_nobody_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, counts: bool
) -> None:
    entries = ["tasks.stages.train", "bnf.objectives.bnf"]
    before = code_digests(entries)
    text = (ROOT / file).read_text()
    assert old in text
    (tmp_path / "edited.py").write_text(text.replace(old, new))
    # What is remembered of the other files stays: reading them all again takes a second.
    edited, read, remembered = keys._tree.__wrapped__(tmp_path / "edited.py"), keys._tree, keys._module
    monkeypatch.setattr(keys, "_tree", lambda path: edited if path == ROOT / file else read(path))
    changed = remembered.__wrapped__(ROOT / file)
    monkeypatch.setattr(keys, "_module", lambda path: changed if path == ROOT / file else remembered(path))
    after = code_digests(entries)
    module = file.removesuffix(".py").replace("/", ".")
    assert [name for name in after if after[name] != before.get(name)] == ([module] if counts else [])
