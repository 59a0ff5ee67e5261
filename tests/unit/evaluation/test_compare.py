"""Runs against each other, by hand."""

import json
from pathlib import Path

import pytest

from evaluation.report.compare import compare, comparison_rows
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


def test_equal_ids_of_other_questions_are_not_shared(tmp_path: Path) -> None:
    # Two files of rows: of the same row numbers only i0 asks the same.
    first, _ = scored(tmp_path / "first", "++--", source="file", contents=["a", "b", "c", "d"])
    second, _ = scored(tmp_path / "second", "-+++", source="file", contents=["a", "x", "y", "z"])
    result = compare([("one", {"gsm8k": {"aligned": first}}), ("two", {"gsm8k": {"aligned": second}})])
    (entry,) = result["comparisons"]
    assert (entry["n_paired"], entry["n_not_shared"], entry["flips"]) == (1, 6, {"gained": 0, "lost": 1})
    assert any("6 items are in one of the runs alone" in note for note in result["notes"])


def test_the_same_items_are_shared_whatever_their_source_and_their_ids(tmp_path: Path) -> None:
    hub, _ = scored(tmp_path / "hub", "++--")
    own, _ = scored(tmp_path / "own", "+++-", source="file", first_id=7, contents=["i3", "i1", "i0", "i2"])
    result = compare([("one", {"gsm8k": {"aligned": hub}}), ("two", {"gsm8k": {"aligned": own}})])
    (entry,) = result["comparisons"]
    # i0 and i1 are right in both, i3 is gained; i2 is wrong in both.
    assert (entry["n_paired"], entry["n_not_shared"], entry["flips"]) == (4, 0, {"gained": 1, "lost": 0})
    assert not any("alone" in note for note in result["notes"])


def test_items_that_a_run_has_twice_are_paired_once_each(tmp_path: Path) -> None:
    first, _ = scored(tmp_path / "first", "+-", contents=["a", "a"])
    second, _ = scored(tmp_path / "second", "+++", contents=["a", "a", "a"])
    (entry,) = compare([("one", {"crux": {"base": first}}), ("two", {"crux": {"base": second}})])["comparisons"]
    assert (entry["n_paired"], entry["n_not_shared"], entry["flips"]) == (2, 1, {"gained": 1, "lost": 0})


def test_without_a_shared_item_there_is_no_difference(tmp_path: Path) -> None:
    hub, _ = scored(tmp_path / "hub", "++--")
    sample, _ = scored(tmp_path / "sample", "++--", source="sample", contents=["s0", "s1", "s2", "s3"])
    result = compare([("one", {"gsm8k": {"aligned": hub}}), ("two", {"gsm8k": {"aligned": sample}})])
    (entry,) = result["comparisons"]
    assert entry["n_paired"] == 0 and entry["delta"] is None and entry["n_not_shared"] == 8
    (row,) = comparison_rows(result)
    assert row["verdict"] == "no shared items" and row["accuracy"] == "– → –"


def test_scores_from_before_items_had_contents_are_refused_with_what_to_do(tmp_path: Path) -> None:
    folder, _ = scored(tmp_path, "+-")
    path = Path(folder) / "scores.jsonl"
    path.write_text(path.read_text().replace('"content"', '"other"'))
    with pytest.raises(ValueError, match=r"scores.jsonl must have content .* got none for 'i0'.* --refresh score"):
        compare([("one", {"crux": {"base": folder}}), ("two", {"crux": {"base": folder}})])


def test_another_version_of_the_scorer_is_said_and_so_is_what_intervals_cover(tmp_path: Path) -> None:
    old, _ = scored(tmp_path / "old", "+-", scorer="2")
    new, _ = scored(tmp_path / "new", "++", scorer="3")
    result = compare([("one", {"crux": {"base": old}}), ("two", {"crux": {"base": new}})])
    (entry,) = result["comparisons"]
    assert (entry["first_scorer"], entry["second_scorer"]) == ("2", "3") and result["runs"]["one"]["crux"]["scorer"] == "2"
    intervals, versions = result["notes"]
    assert "cover the choice of items only" in intervals and "one seed" in intervals
    assert versions.startswith("crux, two against one: scored by version 3 against version 2 of the scorer")
    same = compare([("one", {"crux": {"base": new}}), ("two", {"crux": {"base": new}})])
    assert same["notes"] == [intervals]


def test_benchmarks_that_one_run_lacks_are_named(tmp_path: Path) -> None:
    folder, _ = scored(tmp_path, "+-")
    result = compare([("one", {"crux": {"base": folder}}), ("two", {"gsm8k": {"base": folder}})])
    assert result["comparisons"] == [] and comparison_rows(result) == []
    assert result["not_compared"] == [{"benchmark": "crux", "run": "two"}, {"benchmark": "gsm8k", "run": "one"}]


def test_one_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compare must be given two runs or more, got 1"):
        compare([("one", {})])
