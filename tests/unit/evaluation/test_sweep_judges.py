"""Judges' scores in a sweep's page and tables: hand-computed means and intervals, and what is said of those that mean little."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bnf.plugins import load
from evaluation.judging.aggregates.judgment import Facts, Judgment, Output
from evaluation.judging.protocols import PROTOCOLS
from evaluation.judging.results import JudgmentRecord, summarize_judgments
from evaluation.report import tables
from evaluation.report.sweep_results import find_results
from evaluation.report.sweep_words import answer
from evaluation.report.sweeps import write
from evaluation.report.swept import PAGE, SweptRun
from tests.unit.evaluation.report_folders import write_lines, write_object
from tests.unit.evaluation.test_report import Page
from tests.unit.evaluation.test_sweeps import FACTS, SAME, swept

# Model → question → a verdict of each game or turn.
Verdicts = Mapping[str, Mapping[str, Sequence[str | float | None]]]
# t(0.975) of one degree of freedom.
T1 = 12.706205
Z = 1.959964


def judged(folder: Path, form: str, verdicts: Verdicts, judge: str = "gpt-4", expected: int | None = None) -> Path:
    """A judge stage's folder with these verdicts, in order of game or turn."""
    protocol, compares = load(PROTOCOLS, form), load(PROTOCOLS, form).COMPARES
    output = Output(characters=10, empty=False, cut=False)
    facts = Facts(output=output, baseline_output=output) if form.startswith("checklist") else Facts()
    judgments = [
        Judgment(question, number, verdict, facts, model, category=None)
        for model, of_model in verdicts.items()
        for question, found in of_model.items()
        for number, verdict in enumerate(found, start=1)
    ]
    questions = [{"id": str(number)} for number in range(expected or len(next(iter(verdicts.values()))))]
    orders = "both" if form.startswith("pairwise") else "one"
    about = {"judge": judge, "form": form, "baseline": "old" if compares else None, "orders": orders if compares else None}
    found = summarize_judgments(protocol, judgments, list(verdicts), questions, orders, False)
    write_object(folder / "summary.json", {**about, "demonstration": False, **found})
    lines = [JudgmentRecord(one, ["k"], judge, form, compares, about["baseline"], []).to_json() for one in judgments]
    write_lines(folder / "games.jsonl", [{**line, "finish_reason": "stop"} for line in lines])
    return folder


def rated(folder: Path, *ratings: Sequence[float | None], base: float = 5.0) -> Path:
    """Two turns of each question; the base model has `base` everywhere."""
    questions = {f"q{number}": found for number, found in enumerate(ratings)}
    return judged(folder, "turn_score", {"base": dict.fromkeys(questions, (base, base)), "aligned": questions})


def two_settings(folder: Path) -> list[SweptRun]:
    ratings = {
        ("bnf", 0): [(6, 6), (8, 8)],
        ("bnf", 1): [(6, 6), (6, 6)],
        ("dpo", 0): [(4, 4), (6, 6)],
        ("dpo", 1): [(4, 4), (4, 4)],
    }
    return [
        swept(folder, name, seed, {"gsm8k": SAME}, judges={"mt_bench": rated(folder / f"j-{name}-{seed}", *found)})
        for (name, seed), found in ratings.items()
    ]


def test_a_rating_is_a_mean_over_questions_and_seeds(tmp_path: Path) -> None:
    (one,) = find_results(two_settings(tmp_path), FACTS).judged
    assert (one.label, one.metric.name, one.judge, one.notes) == ("mt_bench", "rating", "gpt-4", [])
    bnf, dpo = one.rows
    assert (bnf.score.mean, dict(bnf.by_seed), bnf.base, bnf.num_questions) == (6.5, {0: 7, 1: 6}, 5, 2)
    # Seeds 7 and 6: s / √2 = 0.5. Questions: deviations sum up to −2 and 2 over 8 ratings, so that the error is √(2 · 8) / 8 = 0.5.
    half = ((T1 * 0.5) ** 2 + (Z * 0.5) ** 2) ** 0.5
    assert bnf.delta.mean == 1.5 and bnf.delta.ci == pytest.approx((1.5 - half, 1.5 + half), abs=1e-4)
    assert bnf.score.ci == (1, 10), "a rating ends there"
    # All of bnf's ratings are 2 above dpo's: of 2 questions a share of z² / (2 + z²) may be otherwise, by 7 below and 11 above at most.
    share = Z**2 / (2 + Z**2)
    title, less = dpo.against
    assert (title, less.mean) == ("bnf", -2) and less.ci == pytest.approx((-2 - 7 * share, -2 + 11 * share), abs=1e-4)
    assert bnf.against is None and bnf.doubts == ["seed 1: not to be trusted: every answer has the score 6"]


def test_a_win_rate_is_a_ratio_of_battles_as_the_judge_stage_has_it(tmp_path: Path) -> None:
    """Of q0 the candidate has 3 + 1 of 4 battles, of q1 0 + 1/2 of 2: 4.5 of 6 are 75 %."""
    verdicts = {"q0": ("B>>A", "A>B"), "q1": ("A>B", "A=B")}
    run = swept(tmp_path, "bnf", 0, {}, judges={"arena_hard": judged(tmp_path / "j", "pairwise", {"aligned": verdicts})})
    (one,) = find_results([run], FACTS).judged
    (row,) = one.rows
    # Values 75 + (400 − 75 · 4) / 3 = 108.3 and 75 + (50 − 75 · 2) / 3 = 41.7, so that the error is 33.3.
    assert row.score.mean == pytest.approx(75) and row.score.ci == pytest.approx((75 - Z * 100 / 3, 100), abs=1e-3)
    assert row.base is None and row.delta is None and (one.metric.unit, one.baseline) == ("percent", "old")


@pytest.mark.parametrize(
    ("form", "verdicts", "score"),
    [
        # Of q1 one game has no verdict, and so both don't count: 2 of 2.
        ("pairwise_hard_prompt", {"q0": ("B>A", "A>B"), "q1": ("A>B", None)}, 100.0),
        # The mean of 8 and 5 is 6.5, and (6.5 − 5) · 20 = 30.
        ("checklist_score", {"q0": (8.0,), "q1": (5.0,)}, 30.0),
        # Game 1 has the baseline first: +1 and −1/2, and 0 of the one without a verdict: 100 · (1 − 1/2) / 3.
        ("checklist_pairwise", {"q0": ("B>>A",), "q1": ("A>B",), "q2": (None,)}, 100 / 6),
    ],
)
def test_each_protocol_counts_as_in_its_own_result(
    tmp_path: Path, form: str, verdicts: Mapping[str, Sequence[str]], score: float
) -> None:
    folder = judged(tmp_path / "j", form, {"aligned": verdicts})
    (one,) = find_results([swept(tmp_path, "bnf", 0, {}, judges={"b": folder})], FACTS).judged
    own = json.loads((folder / "summary.json").read_text())["models"]["aligned"]
    assert one.rows[0].score.mean == pytest.approx(score) == own[one.metric.key]


def test_scores_are_over_the_questions_that_all_runs_have_and_other_ways_to_count_are_left_out(tmp_path: Path) -> None:
    runs = [
        swept(tmp_path, "bnf", 0, {}, judges={"mt_bench": rated(tmp_path / "a", (6, 6), (8, None))}),
        swept(tmp_path, "dpo", 0, {}, judges={"mt_bench": rated(tmp_path / "b", (7, 7), (7, 9), (1, 1))}),
        swept(tmp_path, "sft", 0, {}),
    ]
    (one,) = find_results([*runs[:2], swept(tmp_path, "sft", 0, {"gsm8k": SAME})], FACTS).judged
    assert [row.score.mean for row in one.rows] == [pytest.approx(20 / 3), 7]
    assert "run-sft-0 was not judged on mt_bench, which is left out of its setting." in one.notes
    assert any("over the 2 questions of 3 that have verdicts of all runs" in note for note in one.notes)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    summary["models"]["aligned"]["score"] = 9.0
    write_object(tmp_path / "a" / "summary.json", summary)
    (other,) = find_results(runs[:1], FACTS).judged
    assert not other.rows and "counts in a way of its own" in other.notes[-1]


def test_page_and_tables_say_judge_metric_and_doubts(tmp_path: Path) -> None:
    runs = two_settings(tmp_path / "runs")
    write(runs, tmp_path, FACTS)
    text = " ".join(Page((tmp_path / PAGE).read_text()).text.split())
    assert "mt_bench: rating 1 to 10, by gpt-4" in text and "What do judges say?" in text
    assert "mt_bench, rating by gpt-4: bnf 6.5 and dpo 4.5 (1 to 10)." in text
    assert "seed 1: not to be trusted: every answer has the score 4" in text
    frame = tables.load(tmp_path).query("benchmark == 'mt_bench' and run == 'run-bnf-0'").set_index("metric")
    assert list(frame.index) == ["base_rating", "base_no_verdict", "rating", "no_verdict", "delta_rating"]
    assert frame.value.tolist() == [5, 0, 7, 0, 2] and frame.unit.tolist()[2:] == ["1 to 10", "percent", "rating points"]
    summary = json.loads((runs[0].judges["mt_bench"] / "summary.json").read_text())
    assert frame.loc["rating", ["ci_low", "ci_high"]].tolist() == summary["models"]["aligned"]["ci_clustered"]
    assert frame.note["rating"] == "judged by gpt-4" and "every answer has the score 5" in frame.note["base_rating"]


def test_a_sweep_that_judges_alone_scored_is_no_empty_one(tmp_path: Path) -> None:
    runs = [swept(tmp_path, name, 0, {}, judges={"mt_bench": rated(tmp_path / name, (6, 8))}) for name in ("bnf", "dpo")]
    assert answer(find_results(runs, FACTS), FACTS).sentence == (
        "No benchmark that a rule scores was evaluated: there are judges' scores alone."
    )
    assert answer(find_results(runs[:1], FACTS), FACTS).sentence == "bnf alone, on what judges scored."
    write(runs, tmp_path / "s", FACTS)
    text = " ".join(Page((tmp_path / "s" / PAGE).read_text()).text.split())
    assert "2 compared" in text and "trained only" not in text
    assert find_results(runs, FACTS).judged[0].rows[0].score.ci is None, "a single question has no interval"
