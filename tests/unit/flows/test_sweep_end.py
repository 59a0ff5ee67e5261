"""A sweep's comparison that is made anew, from the runs that its record names."""

import errno
from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from evaluation.report.swept import Candidate, Choice
from flows import sweep_end
from flows.dag.points import make_points
from flows.errors import RecipeError
from flows.recipe.sweep_file import Sweep, load_sweep
from flows.runs.record import start_run
from flows.runs.run_json import TaskRecord
from flows.runs.sweeps import SweepFolder, SweepRecord, SweepRun
from flows.sweep_end import Ended, compare, compare_again
from tasks.store import Artifact, Store
from tests import disks

RATES = (1e-3, 1e-4)
CHOSEN = [
    Choice(
        "bnf",
        {"train.learning_rate": 1e-4},
        [Candidate({"train.learning_rate": rate}, {0: rate, 1: rate}, rate) for rate in reversed(RATES)],
    )
]


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    base = {
        "model_name_or_path": "m",
        "data": {"source": "pairs", "path": "d.jsonl"},
        "prepare": {"dev_fraction": 0.5},
        "train": {},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    axes = {"train.learning_rate": list(RATES), "seed": [0, 1]}
    select = {"on": "dev", "by": "eval_loss", "over": ["train.learning_rate"]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "sweep": axes, "select": select}))
    return load_sweep(str(tmp_path / "s.yaml"))


@pytest.fixture
def found(tmp_path, sweep) -> SweepFolder:
    """The folder of the sweep, which had chosen one of the rates before all of its runs failed."""
    runs = [SweepRun(point.recipe.name, point.settings, why="failed") for point in make_points(sweep)]
    chosen = [asdict(choice) for choice in CHOSEN]
    record = SweepRecord("s", "s.yaml", "bnf sweep s.yaml", sweep.axes, sweep.select.model_dump(), runs, chosen=chosen)
    folder = SweepFolder(tmp_path / "sweeps" / "s", record)
    folder.save()
    return folder.read_again()


def test_what_was_chosen_stays_so_though_the_runs_of_today_would_choose_otherwise(tmp_path, sweep, found, monkeypatch):
    """What was evaluated is what had been chosen."""
    compared: list[sweep_end.Ended] = []
    monkeypatch.setattr(sweep_end, "compare", compared.append)
    assert compare_again(tmp_path, sweep, found)
    assert compared[0].choices == CHOSEN
    found.record.chosen[0]["name"] = "other"
    assert not compare_again(tmp_path, sweep, found), "today's code compares other settings with one another"


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), RecipeError("no such key any more")])
def test_a_run_that_todays_code_cannot_read_makes_no_comparison(tmp_path, sweep, found, monkeypatch, error):
    monkeypatch.setattr(sweep_end, "compare", Mock(side_effect=error))
    assert not compare_again(tmp_path, sweep, found)


@pytest.mark.parametrize(("stage", "is_made"), [("analyze", False), ("report", True)])
def test_a_run_without_what_its_figures_are_read_from_makes_none(tmp_path, sweep, found, monkeypatch, stage, is_made):
    """Without the likelihood shifts a column would be left out. The report is read by nobody."""
    run = start_run(tmp_path, make_points(sweep)[0].recipe, "flow")
    gone = Artifact(stage, "k" * 32, "f" * 32, Path(tmp_path / "artifacts" / stage / "gone"))
    run.record.tasks = {stage: TaskRecord(gone, cached=False, seconds=1)}
    run.end("completed")
    found.record.runs[0].why, found.record.runs[0].runs = None, [run.id]
    monkeypatch.setattr(sweep_end, "compare", lambda work: None)
    assert compare_again(tmp_path, sweep, found) == is_made


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        (disks.full, r"got 'No space left on device'; free some \(`bnf gc` .*\), or move BNF_HOME"),
        (disks.unwritable, r"got '(Read-only file system|Permission denied)'; let it be written, or move BNF_HOME"),
    ],
)
def test_a_disk_that_takes_no_tables_says_what_to_do(tmp_path, sweep, found, disk, said):
    place = tmp_path / "small"
    place.mkdir()
    points, store = make_points(sweep), Store(tmp_path / "artifacts")
    work = Ended(tmp_path, store, sweep, points, SweepFolder(place, found.record), {}, CHOSEN)
    with disk(place):
        with pytest.raises(OSError, match=rf"the disk of {place} must take the sweep's tables and page, {said}; its runs are"):
            compare(work)
        assert not (place / "results.parquet").exists(), "whole or absent"
        with pytest.raises(OSError, match=rf"the disk of {place} must take the sweep's record, {said}; its runs stay"):
            work.folder.save()
    compare(work)
    assert (place / "results.csv").exists()


def test_a_file_of_a_run_that_cannot_be_read_is_not_taken_for_the_disk(tmp_path, sweep, found, monkeypatch):
    work = Ended(tmp_path, Store(tmp_path / "artifacts"), sweep, make_points(sweep), found, {}, CHOSEN)
    closed = PermissionError(errno.EACCES, "Permission denied", "scores.jsonl")
    monkeypatch.setattr("evaluation.report.sweeps.write", Mock(side_effect=closed))
    with pytest.raises(PermissionError, match=r"scores\.jsonl"):
        compare(work)
