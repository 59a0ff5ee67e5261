"""A study's comparisons of its own columns: paired by seed, by hand, and what the page says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.crossed import seeds_mean
from evaluation.report.study_facts import COLUMNS, StudyFacts
from evaluation.report.study_results import StudyResults, find_study
from evaluation.report.swept import SweepFacts, SweptRun
from tests.unit.evaluation.report_folders import write_lines
from tests.unit.evaluation.study_runs import MADE, noise_study
from tests.unit.evaluation.test_sweeps import swept

FACTS = SweepFacts("pairs", "bnf sweep pairs.yaml", {"train.objective": ["bnf", "dpo", "topr"], "seed": [0, 1, 2]})
STUDY = StudyFacts(
    "Pairs",
    "Does it fall?",
    ["Fixed."],
    ["chosen_shift", "rejected_shift", "eval_accuracy", "loss_std"],
    tests=["chosen_shift", "eval_accuracy"],
)


def trained(folder: Path, objective: str, chosen: tuple[float, ...], accuracy: tuple[float, ...]) -> list[SweptRun]:
    """Trainings without a benchmark, a seed each: how far the preferred side moved, and the dev accuracy."""
    runs = []
    for seed, (shift, right) in enumerate(zip(chosen, accuracy, strict=True)):
        one = swept(folder, objective, seed, {}, dev={"eval_accuracy": right})
        assert one.train is not None
        write_lines(
            one.train / "metrics.jsonl",
            [
                {"step": step, "eval_logps/chosen": -1.0 + shift * step / 4, "eval_logps/rejected": -2.0 - step}
                for step in (0, 4)
            ],
        )
        runs.append(one)
    return runs


def study_of(runs: list[SweptRun], study: StudyFacts = STUDY, facts: SweepFacts = FACTS) -> StudyResults:
    return find_study(runs, facts, study, MADE, "digest")


@pytest.fixture
def runs(tmp_path: Path) -> list[SweptRun]:
    return [
        *trained(tmp_path, "bnf", (0.1, 0.2, 0.3), (0.75, 0.75, 0.75)),
        *trained(tmp_path, "dpo", (-0.9, -1.8, -2.7), (0.85, 0.75, 0.95)),
        *trained(tmp_path, "topr", (0.21, 0.3, 0.4), (0.75, 0.75, 0.75)),
    ]


def test_the_paired_t_test_by_hand() -> None:
    # Differences −1, −2, −3: mean −2, s = 1, standard error 1/√3, t = −2√3 = −3.4641; of two degrees of freedom
    # p = 1 − |t| / √(t² + 2) = 1 − 3.4641 / √14 = 0.07418. The interval is −2 ± 4.30265 / √3.
    found = seeds_mean([-1.0, -2.0, -3.0])
    assert (found.mean, found.num_seeds, found.num_items, found.seed_sd) == (-2, 3, 0, 1)
    assert found.ci == pytest.approx((-2 - 2.48414, -2 + 2.48414), abs=1e-4) and found.p == pytest.approx(0.07418, abs=1e-5)
    # One seed says nothing of its spread, and three that are equal no more.
    assert (seeds_mean([0.5]).ci, seeds_mean([0.5]).p) == (None, None)
    assert seeds_mean([0.1 + 0.2, 0.3, 0.3]).p is None, "they are equal but for rounding"
    assert (seeds_mean([0.5] * 3).ci, seeds_mean([0.5] * 3).p, seeds_mean([0.5] * 3).seed_sd) == (None, None, 0)


def test_a_study_without_benchmarks_compares_its_own_columns(runs: list[SweptRun]) -> None:
    found = study_of(runs)
    compared = {(one.setting, one.against, one.column.key): one for one in found.comparisons}
    assert list(compared) == [(other, "bnf", key) for other in ("dpo", "topr") for key in ("chosen_shift", "eval_accuracy")]
    # −1, −2, −3 nats; 10, 0, 20 points: mean 10, s = 10, t = √3, p = 1 − √3 / √5 = 0.22540.
    shift, accuracy = compared["dpo", "bnf", "chosen_shift"].found, compared["dpo", "bnf", "eval_accuracy"].found
    assert shift is not None and accuracy is not None
    assert shift.of.mean == pytest.approx(-2) and shift.of.p == pytest.approx(0.07418, abs=1e-5)
    assert accuracy.of.mean == pytest.approx(10) and accuracy.of.p == pytest.approx(0.22540, abs=1e-5)
    assert accuracy.of.ci == pytest.approx((10 - 24.8414, 10 + 24.8414), abs=1e-3)
    # TOPR is 0.11, 0.1 and 0.1 nats ahead: t = 31, p = 1 − 31 / √963 = 0.0010390. In accuracy it is equal, which has no p: three are left.
    equal = compared["topr", "bnf", "eval_accuracy"]
    assert equal.found is not None and (equal.found.of.mean, equal.found.p_holm, equal.found.verdict) == (0, None, "noise")
    ahead = compared["topr", "bnf", "chosen_shift"].found
    assert ahead is not None and ahead.of.mean == pytest.approx(0.31 / 3) and ahead.verdict == "gain"
    # Holm: the least p times 3, the next times 2, the last as it is, each no less than the one before.
    assert ahead.p_holm == pytest.approx(3 * 0.0010390, abs=1e-6) and shift.p_holm == pytest.approx(2 * 0.07418, abs=2e-5)
    assert accuracy.p_holm == pytest.approx(0.22540, abs=1e-5)


def test_the_page_says_what_was_tested_and_what_came_out(runs: list[SweptRun]) -> None:
    found = study_of(runs)
    assert found.reading.tested == ["Tested: the preferred side's shift and dev accuracy. Compared: dpo and topr against bnf."]
    assert (
        "Its family: the 3 comparisons of the preferred side's shift and dev accuracy between settings." in found.reading.family
    )
    assert "paired t test" in found.reading.family and "a point or more" not in found.reading.family
    [holds] = found.reading.holds
    assert (
        holds.startswith("topr against bnf: +0.103 [")
        and "nats per token of the preferred side's shift, p 0.003, 3 seeds: more." in holds
    )
    assert found.reading.open == [
        "dpo against bnf: −2.000 [−4.484, +0.484] nats per token of the preferred side's shift, p 0.148, 3 seeds: not told apart.",
        "dpo against bnf: +10.0 [−14.8, +34.8] points of dev accuracy, p 0.225, 3 seeds: not told apart.",
        "topr against bnf: 0.0 points of dev accuracy, no p, 3 seeds: not told apart.",
    ]
    assert found.answer.sentence.startswith("bnf loses to topr (+0.103 [")
    doubts = " ".join(found.answer.points[-1].sentences)
    assert "3 seeds a setting; intervals are over the seeds." in doubts


def test_settings_that_cannot_be_compared_are_named_with_the_reason(runs: list[SweptRun]) -> None:
    # DPO's shifts are of its last round, and TOPR has no seed in common with BNF.
    last = frozenset(("chosen_shift", "eval_accuracy"))
    apart = [replace(run, seed=run.seed + 9) if run.objective == "topr" else run for run in runs]
    found = study_of([replace(run, of_last_round=last) if run.objective == "dpo" else run for run in apart])
    assert [one.found for one in found.comparisons] == [None] * 4 and found.reading.holds == []
    assert found.reading.open[0] == (
        "dpo against bnf in the preferred side's shift: not compared, as one of the two figures is of a last round alone."
    )
    assert found.reading.open[-1].endswith("in dev accuracy: not compared, as no seed has a result of both.")
    assert found.rows[1].cells["chosen_shift"].is_of_last_round and not found.rows[0].cells["chosen_shift"].is_of_last_round
    assert [shift.name for shift in found.shifts] == ["bnf", "dpo (the last round)", "topr"]


def test_a_column_on_a_scale_of_its_own_is_compared_within_an_objective_alone(tmp_path: Path) -> None:
    made, facts = noise_study(tmp_path)
    study = replace(STUDY, columns=["gain", "loss_std"], tests=["gain", "loss_std"])
    found = study_of(made, study, facts)
    spread = [(one.setting, one.against) for one in found.comparisons if one.column == COLUMNS["loss_std"][0]]
    assert spread == [("bnf 0.2", "bnf 0.0"), ("bnf 0.4", "bnf 0.0"), ("dpo 0.2", "dpo 0.0"), ("dpo 0.4", "dpo 0.0")]
    gains = {(one.setting, one.against): one.found for one in found.comparisons if one.column.key == "gain"}
    # Right answers by seed: dpo 0.0 40, 41, 42 and bnf 0.0 30, 31, 32; dpo 0.2 has 1, 2, 3.
    means = {pair: round(tested.of.mean, 9) for pair, tested in gains.items() if tested is not None}
    assert (means["dpo 0.0", "bnf 0.0"], means["bnf 0.2", "bnf 0.0"], means["dpo 0.2", "dpo 0.0"]) == (10, -10, -39)
    # Where BNF loses is a matter of other objectives at the same noise; what noise costs BNF is among what holds.
    assert found.answer.sentence.startswith("bnf loses to dpo 0.0") and "bnf 0.2" not in found.answer.sentence
    assert any(one.startswith("bnf 0.2 against bnf 0.0: −10.0") for one in found.reading.holds)
    assert found.reading.tested[1].startswith("Tested: the loss's spread, which has a scale of its own for each objective.")


def test_variants_are_compared_as_the_file_says(runs: list[SweptRun]) -> None:
    named = [replace(run, settings={"variant": run.name, "seed": run.seed}) for run in runs]
    found = study_of(named, replace(STUDY, compare=[("topr", "dpo")]), replace(FACTS, axes={"variant": ["bnf", "dpo", "topr"]}))
    assert {(one.setting, one.against) for one in found.comparisons} == {("topr", "dpo")}
    assert found.answer.sentence.startswith("No setting can be told from dpo in the preferred side's shift or dev accuracy; ")


def test_a_variant_is_called_as_the_file_calls_it_though_it_alone_has_its_objective(runs: list[SweptRun]) -> None:
    named = [replace(run, name=f"{run.name}-x", settings={"variant": f"{run.name}-x", "seed": run.seed}) for run in runs]
    names = [f"{name}-x" for name in ("bnf", "dpo", "topr")]
    study = replace(STUDY, compare=[("topr-x", "dpo-x")], columns=["gain", *STUDY.columns], tests=["gain", *STUDY.tests])
    found = study_of(named, study, replace(FACTS, axes={"variant": names}))
    assert [row.title for row in found.rows] == names
    assert {(one.setting, one.against) for one in found.comparisons} == {("topr-x", "dpo-x")}


def test_lengths_are_compared_item_by_item(tmp_path: Path) -> None:
    made, facts = noise_study(tmp_path)
    found = study_of(made, replace(STUDY, columns=["tokens"], tests=["tokens"]), facts)
    first = found.comparisons[0]
    # Every completion of the made runs has ten tokens: nothing varies.
    assert first.found is not None and first.found.of.mean == 0 and first.found.of.num_items == 200
