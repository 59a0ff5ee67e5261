"""A study's results: its figures by hand, its rows with trainings that collapsed, its file, its words and its figure."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bnf.analysis.gini import gini
from evaluation.report import tables
from evaluation.report.study_facts import COLUMN_NAMES, COLUMNS
from evaluation.report.study_figure import figure
from evaluation.report.study_results import STUDY_FILE, Cell, StudyResults, find_study
from evaluation.report.swept import FailedRun, SweepFacts, SweptRun
from evaluation.report.training_figures import loss_std, training_figures
from tests.unit.evaluation.report_folders import write_lines, write_object
from tests.unit.evaluation.study_runs import MADE, NOISE, STUDY, noise_study, run


def study_of(folder: Path, runs: list[SweptRun] | None = None, facts: SweepFacts | None = None) -> StudyResults:
    made_runs, made_facts = noise_study(folder)
    return find_study(made_runs if runs is None else runs, facts or made_facts, STUDY, MADE, "digest")


def test_the_figures_of_a_training_are_those_of_its_files(tmp_path: Path) -> None:
    one = run(tmp_path, "dpo", 0.4, 1, 10)
    found = training_figures(one)
    # Of the ten steps 6 to 10: offsets of ∓0.1 around the line, whose mean is −0.02 and whose slope is 0.
    assert found["loss_std"] == pytest.approx((3 * 0.08**2 + 2 * 0.12**2) ** 0.5 / 3**0.5)
    assert (found["grad_norm"], found["grad_norm_max"], found["collapsed"]) == (5.5, 10, 0)
    assert found["chosen_shift"] == pytest.approx(-3.2) and found["rejected_shift"] == pytest.approx(-8)
    assert found["gini"] == pytest.approx(0.75), "one of four tokens moved"
    assert one.train is not None
    # The policy that was taken, not the last.
    write_object(one.train / "train_summary.json", {"steps": 10, "seconds": 2.0, "kept": {"step": 5}})
    assert training_figures(one)["chosen_shift"] == pytest.approx(-1.6)
    # Without a dev set the batches', against the reference; what isn't there is no 0.
    write_lines(one.train / "metrics.jsonl", [{"step": step, "logps_shift/chosen": -0.1 * step} for step in (1, 2)])
    found = training_figures(replace(one, shifts=None))
    assert found["chosen_shift"] == -0.2 and not {"rejected_shift", "grad_norm", "loss_std", "gini"} & found.keys()
    # Without a reference, against the first step.
    write_lines(one.train / "metrics.jsonl", [{"step": step, "logps/rejected": -1.0 - step} for step in (1, 2)])
    assert training_figures(one)["rejected_shift"] == -1
    assert training_figures(replace(one, train=None)) == {}


def test_a_straight_line_has_no_spread_and_two_points_have_none_to_measure() -> None:
    assert loss_std([(step, 5 - 0.3 * step) for step in range(1, 21)]) == pytest.approx(0, abs=1e-9)
    assert loss_std([]) is None and loss_std([(step, 1.0) for step in (1, 2, 3, 4)]) is None


def test_gini_of_known_values() -> None:
    assert gini(np.array([-2.0, 2.0, 2.0])) == pytest.approx(0)
    assert gini(np.array([0.0, 0.0, 0.0, -9.0])) == pytest.approx(3 / 4)
    # |x| = 1, 2, 3: (−2·1 + 0·2 + 2·3) / (3·6).
    assert gini(np.array([3.0, -1.0, 2.0])) == pytest.approx(4 / 18)
    assert gini(np.zeros(3)) is None and gini(np.array([])) is None


def test_values_of_other_rows_have_no_gini(tmp_path: Path) -> None:
    one = run(tmp_path, "bnf", 0.0, 0, 10)
    assert one.shifts is not None
    index = {"rows": "other", "shards": [{"file": "0.safetensors"}]}
    write_object(one.shifts / "policy_logps" / "index.json", index)
    assert "gini" not in training_figures(one)
    write_object(one.shifts / "policy_logps" / "index.json", {**index, "rows": "r", "shards": [{"file": "gone.safetensors"}]})
    assert "gini" not in training_figures(one)


def test_a_collapse_counts_and_what_is_left_says_of_how_many_seeds_it_is(tmp_path: Path) -> None:
    found = study_of(tmp_path)
    assert [row.title for row in found.rows] == ["bnf 0.0", "bnf 0.2", "bnf 0.4", "dpo 0.0", "dpo 0.2", "dpo 0.4"]
    first, last = found.rows[0], found.rows[-1]
    assert (first.num_seeds, first.num_collapsed, first.cells["collapsed"]) == (3, 0, Cell(0, None, 3))
    assert first.cells["gain"].mean == 31 and first.cells["gain"].num_seeds == 3
    # Seeds 0.5, 0.6, 0.7: t(0.975, 2) = 4.3027, s = 0.1.
    assert first.cells["eval_accuracy"].mean == pytest.approx(60)
    assert first.cells["eval_accuracy"].ci == pytest.approx((60 - 43.027 / 3**0.5, 60 + 43.027 / 3**0.5), abs=1e-3)
    assert (last.num_seeds, last.num_collapsed, last.num_failed) == (3, 2, 0)
    assert last.cells["collapsed"].mean == pytest.approx(200 / 3) and last.cells["collapsed"].num_seeds == 3
    assert last.cells["gain"].num_seeds == last.cells["kl"].num_seeds == 1 and last.cells["kl"].ci is None


def test_a_setting_whose_trainings_all_collapse_has_a_row_and_other_failures_are_told_apart(tmp_path: Path) -> None:
    runs, facts = noise_study(tmp_path)
    settings = {"train.objective": "dpo", NOISE: 0.4}
    disk = FailedRun("dpo 0.4", {**settings, "seed": 2}, "the disk is full", "r2", "dpo", 2)
    found = study_of(tmp_path, [one for one in runs if one.name != "dpo 0.4"], replace(facts, failed=[*facts.failed, disk]))
    last = found.rows[-1]
    assert (last.title, last.num_seeds, last.num_collapsed, last.num_failed) == ("dpo 0.4", 3, 2, 1)
    assert dict(last.cells) == {"collapsed": Cell(100, None, 2)}, "a full disk says nothing of the setting"
    cancelled = replace(disk, why="it was cancelled", is_cancelled=True)
    found = study_of(
        tmp_path, [one for one in runs if one.name != "dpo 0.4"], replace(facts, failed=[*facts.failed, cancelled])
    )
    assert (found.rows[-1].num_collapsed, found.rows[-1].num_cancelled, found.rows[-1].num_failed) == (2, 1, 0)
    # Settings that were not chosen are no rows: their runs without a result are listed all the same.
    unchosen = replace(facts, failed=[replace(one, is_chosen=False) for one in facts.failed])
    found = study_of(tmp_path, [one for one in runs if one.name != "dpo 0.4"], unchosen)
    assert [row.title for row in found.rows][-1] == "dpo 0.2" and len(found.failed) == 2


def test_the_tidy_table_has_a_studys_columns_and_the_collapses(tmp_path: Path) -> None:
    runs, facts = noise_study(tmp_path)
    frame = tables.results(runs, "noise", [*facts.failed, FailedRun("bnf 0.0", {}, "the disk is full")])
    collapsed = frame.query("metric == 'collapsed'")
    assert collapsed.groupby("name").value.mean()["dpo 0.4"] == pytest.approx(2 / 3) and len(collapsed) == len(runs) + 2
    assert collapsed.query("value == 1").run.tolist() == ["r0", "r1"]
    assert set(frame.run) == {*(one.run for one in runs), "r0", "r1"}
    of_training = {"chosen_shift", "rejected_shift", "grad_norm", "grad_norm_max", "loss_std", "gini", "kl"}
    assert of_training <= set(frame.query("benchmark == 'training'").metric)
    tables.write(frame, tmp_path)
    assert tables.load(tmp_path).query("metric == 'collapsed' and is_chosen").value.sum() == 2


def test_the_file_holds_all_and_one_of_another_version_is_none(tmp_path: Path) -> None:
    study_of(tmp_path).write(tmp_path)
    found = StudyResults.read(tmp_path)
    assert found is not None and found.made_of == "digest" and found.rows[-1].num_collapsed == 2
    before = (tmp_path / STUDY_FILE).read_bytes()
    found.write(tmp_path)
    assert (tmp_path / STUDY_FILE).read_bytes() == before
    (tmp_path / STUDY_FILE).write_text('{"study": {}}')
    assert StudyResults.read(tmp_path) is None and StudyResults.read(tmp_path / "nothing") is None


def test_what_holds_is_what_the_corrected_intervals_allow(tmp_path: Path) -> None:
    found = study_of(tmp_path)
    assert found.reading.holds[0].startswith("dpo 0.0 against bnf 0.0: +10.0 [") and found.reading.holds[0].endswith("more.")
    assert any(one.startswith("dpo 0.2 against bnf 0.2: −19.0 [") for one in found.reading.holds)
    # Its own interval excludes 0, and the correction for six comparisons doesn't.
    [gain] = [one for one in found.reading.open if one.startswith("dpo 0.4 against bnf 0.4") and "of gain" in one]
    assert "−5.0 [−11.2, −1.1]" in gain and gain.endswith("1 seed: not told apart.")
    # A sentence of each setting has all benchmarks on which nothing is certain.
    noise = [one for one in found.reading.open if "against the base model within noise" in one]
    assert len(noise) == len({one.split(" against")[0] for one in noise}) and all("points, p " in one for one in noise)
    # Three of DPO with BNF at the same noise, two of each objective's noise with its own first, in gain and in tax.
    assert "the 14 comparisons of gain and tax between settings" in found.reading.family
    assert "over each setting's 2 benchmarks" in found.reading.family
    assert "2 runs have no result (2 collapsed) and count nowhere" in " ".join(found.answer.points[-1].sentences)


def test_every_name_of_a_column_has_a_column() -> None:
    assert set(COLUMN_NAMES) == {*COLUMNS, "delta"}


def test_the_figure_is_an_svg_file_with_a_panel_for_each_column(tmp_path: Path) -> None:
    found = study_of(tmp_path)
    drawn = figure(found)
    assert drawn is not None and drawn == figure(found), "the same bytes for the same numbers"
    root = ElementTree.fromstring(drawn)
    panels = root.findall("{http://www.w3.org/2000/svg}svg")
    # All columns but the largest gradient, and the likelihoods of six settings.
    assert len(panels) == len(found.columns) - 1 + 6
    text = " ".join(root.itertext())
    assert "flip_fraction" in text and "collapsed, % of seeds" in text and "Likelihood over training, dpo 0.4" in text
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "") and "<script" not in drawn
    # Settings with names: gain and tax, each with its interval in figures.
    named = figure(replace(found, axis=None))
    assert named is not None and "+31.0 [+22.5, +40.9]" in named
    assert len(ElementTree.fromstring(named).findall("{http://www.w3.org/2000/svg}svg")) == 2 + 6
    assert figure(replace(found, columns=[], shifts=[])) is None


def test_the_legend_has_the_markers_of_the_points(tmp_path: Path) -> None:
    drawn = figure(study_of(tmp_path))
    assert drawn is not None
    legend = re.findall(r'<path class="marker" d="([^"]*)" style="fill: (var\(--[a-z0-9-]+\))', drawn)
    # BNF's circle of curves in its colour, and DPO's square.
    assert [(shape.count("C"), shape.count("L"), color) for shape, color in legend] == [
        (8, 0, "var(--aligned)"),
        (0, 3, "var(--series-1)"),
    ]
    # Long titles are broken into lines that a phone has room for.
    long = study_of(tmp_path)
    shifts = [one._replace(name="flip_fraction 0.4, contradict_fraction 0.4 and a name that goes on") for one in long.shifts]
    titles = re.findall(r'font-weight="600" fill="var\(--ink\)">([^<]*)<', str(figure(replace(long, shifts=shifts))))
    assert max(map(len, titles)) <= 56 and any(title.endswith("goes on") for title in titles)


def test_an_axis_of_numbers_is_one_of_several_and_not_what_was_chosen_over(tmp_path: Path) -> None:
    runs, facts = noise_study(tmp_path)
    assert study_of(tmp_path).axis == NOISE
    assert study_of(tmp_path, runs, replace(facts, over=[NOISE])).axis is None
    mixed = {**facts.axes, NOISE: [0.0, "none", 0.4]}
    assert study_of(tmp_path, runs, replace(facts, axes=mixed)).axis is None
