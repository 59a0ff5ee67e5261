"""Several samples in what people read: tables, notes, every sample of an item, comparisons of runs, and sweeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from evaluation.report import tables
from evaluation.report.build import build_report
from evaluation.report.compare import compare
from evaluation.report.facts import facts
from evaluation.report.inputs import ReportInputs
from evaluation.report.item_pages import build_item_pages
from evaluation.report.items import Items
from evaluation.report.summary import notes, sample_rows, summarize, table_rows
from evaluation.report.sweep_results import find_results
from evaluation.report.swept import SweepFacts, SweptRun
from evaluation.report.swept_scores import read_scores
from evaluation.scoring.score import score_folder
from tests.unit.evaluation.report_folders import inputs, scored, write_lines, write_object
from tests.unit.evaluation.test_item_pages import read

Pair = tuple[Path, Path]


def sampled(folder: Path, marks: Sequence[str], temperature: float = 0.6) -> Pair:
    """The folders of a score and a generate stage; of each item a mark for each sample: + right, - wrong, 0 no answer."""
    texts = {"+": '{"answer": "2"}', "-": '{"answer": "3"}', "0": "no idea"}
    write_lines(
        folder / "generate" / "items.jsonl",
        [{"id": f"i{item}", "question": f"question {item}", "answer": "2"} for item in range(len(marks))],
    )
    write_lines(
        folder / "generate" / "completions.jsonl",
        [
            {
                "id": f"i{item}",
                "sample": sample,
                "prompt": "a prompt",
                "completion": f"sample {sample}: {texts[mark]}",
                "finish_reason": "stop",
                "num_completion_tokens": 10 + sample,
            }
            for item, of in enumerate(marks)
            for sample, mark in enumerate(of)
        ],
    )
    drawn = {"num_samples": len(marks[0]), "temperature": temperature, "top_p": 1.0}
    score_folder("gsm8k", folder / "generate", folder / "score", source="hub", limit=None, sampling=drawn)
    return folder / "score", folder / "generate"


BASE, ALIGNED = ["+---", "----", "++++", "00--"], ["++++", "++--", "+++-", "000-"]


@pytest.fixture
def collected(tmp_path: Path) -> ReportInputs:
    both = {"base": sampled(tmp_path / "base", BASE), "aligned": sampled(tmp_path / "aligned", ALIGNED)}
    return inputs(tmp_path, {"gsm8k": both})


def test_the_summary_by_hand(collected: ReportInputs) -> None:
    summary = summarize(collected)
    entry = summary["benchmarks"]["gsm8k"]
    # Shares 1/4, 0, 1, 0 against 1, 1/2, 3/4, 0.
    assert entry["base"]["accuracy"] == 31.25 and entry["aligned"]["accuracy"] == 56.25
    assert entry["delta"] == pytest.approx(25) and entry["flips"] == {"gained": 1, "lost": 0}
    assert entry["at_k_delta"]["pass@1"]["delta"] == pytest.approx(entry["delta"])
    # pass@2: 1/2, 0, 1, 0 against 1, 5/6, 1, 0; the majorities 0, 0, 1, 0 against 1, 1/2, 1, 0.
    assert entry["at_k_delta"]["pass@2"]["delta"] == pytest.approx(100 * (1 / 2 + 5 / 6) / 4)
    assert entry["at_k_delta"]["maj@4"]["delta"] == pytest.approx(100 * 1.5 / 4)
    (row,) = table_rows(summary)
    assert row["base"] == "31.2" and row["n"] == "4/4 of 1319 × 4" and row["p (Holm)"] == f"{entry['paired_p_holm']:.3f}"
    rows = {row["figure"]: row for row in sample_rows(summary)}
    assert list(rows) == ["pass@1", "pass@2", "pass@4", "maj@4"]
    assert rows["pass@4"]["base"].startswith("50.0 [") and rows["pass@4"]["Δ [95 %]"].startswith("+25.0")
    (said,) = [note for note in notes(summary) if note.startswith("gsm8k: 4 samples")]
    assert "4 samples of each item at temperature 0.6, and the accuracy is avg@4" in said and "intervals are over items" in said
    assert ("Evaluation", "gsm8k; 4 samples of each item at temperature 0.6, by vllm") in facts(summary)
    json.dumps(summary, allow_nan=False)


def test_the_page_has_the_table_the_curve_and_who_is_shown(collected: ReportInputs, tmp_path: Path) -> None:
    build_report(collected, tmp_path / "out", build_item_pages(collected, tmp_path / "out"))
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Several samples of each item" in html and "gsm8k: pass@k by k, in percent" in html and "4/4 of 1319 × 4" in html
    assert "sample 0 of 4, of which 1 are right; the page of all items has every one" in html
    _, items = read(tmp_path / "out", "gsm8k")
    assert [(one["model"], one["sample"], one["votes"]) for one in items[0]["replies"]] == [
        *(("base", sample, 1 if sample == 0 else 3) for sample in range(4)),
        *(("aligned", sample, 4) for sample in range(4)),
    ]
    assert [one["kind"] for one in items] == ["wrong → right", "wrong both times", "right both times", "wrong both times"]
    assert items[3]["filters"] == ["wrong", "no-answer"]


def test_one_model_alone_has_the_figures_without_a_difference(tmp_path: Path) -> None:
    made = inputs(tmp_path, {"gsm8k": {"base": sampled(tmp_path / "base", BASE)}})
    summary = build_report(made, tmp_path / "out")
    assert [list(row) for row in sample_rows(summary)] == [["benchmark", "figure", "base"]] * 4
    (said,) = [note for note in notes(summary) if note.startswith("gsm8k: 4 samples")]
    # Nothing is compared: no p, and no item is gained.
    assert "intervals are over items" in said and "paired" not in said and "gained" not in said


def test_items_show_every_sample_and_search_finds_any(tmp_path: Path) -> None:
    scores, generation = sampled(tmp_path / "base", BASE)
    items = Items({"base": scores}, {"base": generation})
    (item,) = items.read(["i0"])
    assert [(one.sample, one.outcome, one.votes) for one in item.replies] == [
        (0, "correct", 1),
        *((n, "wrong", 3) for n in (1, 2, 3)),
    ]
    assert item.to_json()["replies"][3]["sample"] == 3
    assert items.chosen("right") == ["i2"] and items.chosen("no-answer") == []
    assert items.chosen(None, "sample 3: no idea") == [] and items.chosen(None, "sample 1: no idea") == ["i3"]


def test_one_completion_shows_nothing_of_samples(tmp_path: Path) -> None:
    scores, generation = scored(tmp_path, "+-")
    (item,) = Items({"base": scores}, {"base": generation}).read(["i0"])
    assert not {"sample", "votes"} & item.to_json()["replies"][0].keys()


def test_runs_that_were_drawn_otherwise_say_so(tmp_path: Path) -> None:
    first, second = (sampled(tmp_path / str(t), BASE, temperature=t)[0] for t in (0.6, 1.0))
    result = compare([("one", {"gsm8k": {"base": first}}), ("two", {"gsm8k": {"base": second}})])
    (entry,) = result["comparisons"]
    assert entry["first_accuracy"] == entry["second_accuracy"] == 31.25 and entry["delta"] == 0
    assert any(
        "drawn otherwise (4 samples of each item at temperature 1 against 4 samples of each item at temperature 0.6)" in note
        for note in result["notes"]
    )
    same = compare([("one", {"gsm8k": {"base": first}}), ("two", {"gsm8k": {"base": first}})])
    assert not any("drawn otherwise" in note for note in same["notes"])


def test_a_sweep_is_over_shares(tmp_path: Path) -> None:
    runs = []
    for seed in range(3):
        home = tmp_path / str(seed)
        pair = {"base": sampled(home / "base", BASE)[0], "aligned": sampled(home / "aligned", ALIGNED)[0]}
        write_object(home / "summary.json", {"recipe": {"data": {"source": "gsm8k", "path": "x"}}})
        settings = {"train.objective": "bnf", "seed": seed}
        runs.append(SweptRun(f"run-{seed}", "bnf", settings, "bnf", seed, home, scores={"gsm8k": pair}, dev={}, train=None))
    scores = read_scores(runs)
    assert scores.sampled == {"gsm8k"} and scores.settings[0].scores[0]["gsm8k"].changes == [0.75, 0.5, -0.25, 0.0]
    assert any("The base model has right: 1.2 of 4 on gsm8k" in note for note in scores.notes)
    (row,) = find_results(runs, SweepFacts("s", "bnf sweep s.yaml", {"seed": [0, 1, 2]})).rows
    assert row.gain is not None and row.gain.mean == pytest.approx(25)
    table = tables.results(runs, "s").query("run == 'run-0'").set_index("metric")
    assert table.loc["delta", "value"] == pytest.approx(25) and table.loc["pass@2", "value"] == pytest.approx(
        100 * (17 / 6) / 4
    )
    assert table.loc["base_maj@4", "value"] == 25 and table.loc["accuracy", "value"] == 56.25
    # Student's over items: the sample deviation of the changes is .4564.
    assert table.loc["delta", "ci_high"] == pytest.approx(25 + 3.182446 * 100 * 0.456435 / 2, abs=1e-2)
