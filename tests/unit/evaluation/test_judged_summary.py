"""What the report says of judges: every form, two judges, deviations, cost."""

import json

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from evaluation.judging.deviations import deviations
from evaluation.report.judged import add_agreement, judge_counts, judge_entry, judge_notes, judge_rows
from tests.unit.evaluation.fake_engine import FakeEngine
from tests.unit.evaluation.test_judging import GOOD, MT, TASKS, fair, play, scored

arena_hard, mt_bench, questions, wildbench = (
    load(BENCHMARKS, name) for name in ("arena_hard", "mt_bench", "questions", "wildbench")
)


def settings(**changed):
    return {
        "judge_name": "gpt-4-1106-preview",
        "form": "pairwise",
        "source": "file",
        "limit": None,
        "max_new_tokens": None,
        "orders": "both",
        "verdict": "text",
        **changed,
    }


def test_deviations_name_the_judge_first():
    assert deviations(arena_hard, settings(), "gpt-4-0314") == ["the judge's instructions in words of this project"]
    found = deviations(
        arena_hard, settings(judge_name="small", limit=20, max_new_tokens=64, orders="one", verdict="choice"), "base"
    )
    assert found[0] == "judge small instead of gpt-4-1106-preview" and found[1] == "baseline base instead of gpt-4-0314"
    assert "the first 20 of 500 questions" in found and "answers of at most 64 instead of 4096 tokens" in found
    assert any("games in one order" in text for text in found) and any("verdicts by choice" in text for text in found)
    rewards = settings(form="checklist_pairwise", judge_name="gpt-4-turbo-2024-04-09")
    assert any("games in both orders instead of one" in text for text in deviations(wildbench, rewards, wildbench.BASELINE))
    assert deviations(questions, settings(), "base") == []
    assert deviations(mt_bench, settings(form="turn_score", judge_name="gpt-4"), None)[1:] == []


def test_every_form_has_its_rows_and_sentences(tmp_path):
    mt_answers = {item["id"]: ["a", "b"] for item in MT}
    wb_answers = {item["id"]: ["good"] for item in TASKS}
    wb_baseline = {item["id"]: ["poor"] for item in TASKS}
    play(FakeEngine(fair), tmp_path / "arena", models={"aligned": GOOD})
    play(
        FakeEngine(lambda _: scored(7)),
        tmp_path / "wb",
        "checklist_score",
        items=TASKS,
        models={"base": wb_answers},
        baseline=None,
    )
    choose = FakeEngine(lambda m: json.dumps({"choice": "A++"}))
    play(choose, tmp_path / "reward", "checklist_pairwise", items=TASKS, models={"aligned": wb_answers}, baseline=wb_baseline)
    play(FakeEngine(lambda _: "[[6]]"), tmp_path / "mt", "turn_score", items=MT, models={"base": mt_answers}, baseline=None)
    entries = {name: judge_entry(tmp_path / name) for name in ("arena", "wb", "reward", "mt")}
    rows = {name: judge_rows(name, entry)[0] for name, entry in entries.items()}
    assert rows["arena"]["score"] == "100.0" and rows["arena"]["trusted"] == "yes" and rows["arena"]["position bias"] == "0.00"
    assert rows["wb"]["WB-Score"] == "40.0" and rows["wb"]["trusted"] == "untrusted" and "position bias" not in rows["wb"]
    assert rows["reward"]["WB-Reward"] == "0.0" and rows["reward"]["trusted"] == "untrusted"
    # Answers of one length: nothing that a longer one could have won.
    assert rows["reward"]["characters"] == "4 against 4" and rows["reward"]["longer won"] == "–"
    assert rows["wb"]["characters"] == "4" and "longer won" not in rows["wb"]
    assert rows["mt"]["score"] == "6.0"
    (note,) = judge_notes("mt_bench", entries["mt"])
    assert "6.0 of 10 [3.6, 8.0]" in note and "position bias" not in note and "every answer has the score 6" in note
    (note,) = judge_notes("wildbench", entries["reward"])
    assert "against old" in note and "position bias +1.00" in note
    assert judge_counts(entries["arena"]) == [("baseline first", "B>A × 12"), ("candidate first", "A>B × 12")]
    assert judge_counts(entries["mt"]) == [("turn 1", "6 × 4"), ("turn 2", "6 × 4")]


def test_a_judge_without_any_verdict_has_no_score(tmp_path):
    play(FakeEngine(lambda _: "<think>it never ends [[A>B]]"), tmp_path, "pairwise_hard_prompt", models={"base": GOOD})
    entry = judge_entry(tmp_path)
    (row,) = judge_rows("arena", entry)
    assert row["score"] == row["as published, 90 %"] == row["style controlled"] == "–" and row["trusted"] == "untrusted"
    (note,) = judge_notes("arena", entry)
    assert ": no score, position bias –, 24 of 24 games without a verdict (24 × unfinished thought)" in note
    assert "one question" not in note and note.endswith("not to be trusted: no verdict.")


def test_two_judges_agreement_stands_with_the_second(tmp_path):
    play(FakeEngine(fair), tmp_path / "first", models={"aligned": GOOD})
    play(FakeEngine(lambda m: "[[A>B]]"), tmp_path / "second", models={"aligned": GOOD})
    folders = {"arena_hard": tmp_path / "first", "arena_hard/second": tmp_path / "second"}
    entries = {name: judge_entry(folder) for name, folder in folders.items()}
    add_agreement(entries, folders)
    assert entries["arena_hard/second"]["agreement"]["aligned"]["n_games"] == 24
    assert entries["arena_hard/second"]["agreement"]["aligned"]["kappa"] == 0.0, "one always says A, the other half the time"
    assert "agreement" not in entries["arena_hard"]
    assert any(
        "agree with κ = 0.00 on 24 games" in note for note in judge_notes("arena_hard/second", entries["arena_hard/second"])
    )
