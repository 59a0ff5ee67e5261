"""What a run of a sweep gives to its comparison."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.report.swept import SweptRun
from flows.recipe.config import make_recipe
from flows.runs.record import Run, start_run
from flows.runs.run_json import TaskRecord
from flows.runs.swept import READ, swept_run
from tasks.store import Artifact

TASKS = (
    "score/base/capitals",
    "judge/arena_hard",
    "judge/second-checklist_pairwise/wildbench",
    "judge/checklist_pairwise/wildbench",
)


@pytest.fixture
def run(tmp_path) -> Run:
    """A run that judged two benchmarks, one of them by two protocols and a second judge."""
    made = start_run(tmp_path, make_recipe({"name": "s-0", "model_name_or_path": "m"}), None)
    made.record.tasks = {
        task: TaskRecord(Artifact(task.partition("/")[0], "k" * 32, "f" * 32, tmp_path / task), cached=False, seconds=1)
        for task in TASKS
    }
    return made


def swept(run: Run, *, is_chosen: bool) -> SweptRun:
    store = SimpleNamespace(fetch=lambda artifact, leave_out=(): artifact.path)
    return swept_run(run, store, label="bnf", settings={}, num_settings=1, is_chosen=is_chosen)


def test_judges_have_the_names_of_a_report(tmp_path, run):
    found = swept(run, is_chosen=True)
    assert found.judges == {
        "arena_hard": tmp_path / "judge/arena_hard",
        "wildbench/second-checklist_pairwise": tmp_path / "judge/second-checklist_pairwise/wildbench",
        "wildbench/checklist_pairwise": tmp_path / "judge/checklist_pairwise/wildbench",
    }
    assert found.scores == {"capitals": {"base": Path(tmp_path / "score/base/capitals")}} and "judge" in READ


def test_of_settings_that_were_not_chosen_no_judge_is_asked(run):
    assert swept(run, is_chosen=False).judges == {}
