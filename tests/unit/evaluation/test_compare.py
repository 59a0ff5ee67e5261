"""Runs against each other, by hand."""

import json
from pathlib import Path

import pytest

from evaluation.compare import compare, comparison_rows
from tests.unit.evaluation.report_folders import scored


def test_two_runs_by_hand(tmp_path: Path) -> None:
    # Shared are i2…i9: there the first has 3 right, the second 7; five gained, one lost.
    first, _ = scored(tmp_path / "first", "++" + "+++-----")
    second, _ = scored(tmp_path / "second", "-+++++++" + "----", first_id=2)
    result = compare([("one", {"crux": {"aligned": first}}), ("two", {"crux": {"aligned": second}})])
    (entry,) = result["comparisons"]
    assert (entry["first"], entry["second"], entry["benchmark"]) == ("one", "two", "crux")
    assert entry["first_accuracy"] == 37.5 and entry["second_accuracy"] == 87.5
    assert entry["delta"] == pytest.approx(50) and entry["flips"] == {"gained": 5, "lost": 1}
    assert entry["mcnemar_p"] == pytest.approx(14 / 64)
    assert entry["n_paired"] == 8 and entry["n_not_shared"] == 2 + 4
    # Each run's own accuracy is over all of its items.
    assert result["runs"]["one"]["crux"]["accuracy"] == 50
    (row,) = comparison_rows(result)
    assert row["accuracy"] == "37.5 → 87.5" and row["flips"] == "+5 −1" and row["items"] == "8 (6 not shared)"
    json.dumps(result, allow_nan=False)


def test_the_aligned_model_is_compared_and_the_base_where_there_is_no_other(tmp_path: Path) -> None:
    right, _ = scored(tmp_path / "right", "+" * 8)
    wrong, _ = scored(tmp_path / "wrong", "-" * 8)
    result = compare([("plain", {"crux": {"base": wrong}}), ("trained", {"crux": {"base": wrong, "aligned": right}})])
    (entry,) = result["comparisons"]
    assert (entry["first_model"], entry["second_model"]) == ("base", "aligned")
    assert entry["delta"] == 100 and entry["verdict"] == "gain"


def test_all_runs_stand_against_the_first_and_holm_covers_all_of_it(tmp_path: Path) -> None:
    base, _ = scored(tmp_path / "base", "------")
    better, _ = scored(tmp_path / "better", "++++++")
    scores = {"crux": {"aligned": better}, "gsm8k": {"aligned": better}}
    result = compare([("one", {"crux": {"aligned": base}, "gsm8k": {"aligned": base}}), ("two", scores), ("three", scores)])
    assert [(entry["second"], entry["benchmark"]) for entry in result["comparisons"]] == [
        ("two", "crux"),
        ("two", "gsm8k"),
        ("three", "crux"),
        ("three", "gsm8k"),
    ]
    # p = 2/2⁶ = .03125 each, times four.
    assert {entry["mcnemar_p_holm"] for entry in result["comparisons"]} == {0.125}
    assert {entry["verdict"] for entry in result["comparisons"]} == {"noise"}


def test_items_of_another_source_are_other_items(tmp_path: Path) -> None:
    hub, _ = scored(tmp_path / "hub", "++--")
    sample, _ = scored(tmp_path / "sample", "++--", source="sample")
    result = compare([("one", {"gsm8k": {"aligned": hub}}), ("two", {"gsm8k": {"aligned": sample}})])
    (entry,) = result["comparisons"]
    assert entry["n_paired"] == 0 and entry["delta"] is None and entry["n_not_shared"] == 8
    (row,) = comparison_rows(result)
    assert row["verdict"] == "no shared items" and row["accuracy"] == "– → –"


def test_benchmarks_that_one_run_lacks_are_named(tmp_path: Path) -> None:
    folder, _ = scored(tmp_path, "+-")
    result = compare([("one", {"crux": {"base": folder}}), ("two", {"gsm8k": {"base": folder}})])
    assert result["comparisons"] == [] and comparison_rows(result) == []
    assert result["not_compared"] == [{"benchmark": "crux", "run": "two"}, {"benchmark": "gsm8k", "run": "one"}]


def test_one_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compare must be given two runs or more, got 1"):
        compare([("one", {})])
