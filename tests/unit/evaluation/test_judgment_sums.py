"""Arena-Hard v2.0's questions and games: every one counts, or is named with the reason why it doesn't, and the numbers add up."""

import json

from evaluation.judging.recorded.score import judge_score
from evaluation.judging.recorded.tables import judgment_rows


def _row(uid, *labels):
    about = {"uid": uid, "category": "hard_prompt", "judge": "j", "model": "m", "baseline": "o3-mini-2025-01-31"}
    return {**about, "games": [None if label is None else {"score": label or None} for label in labels]}


def _scored(tmp_path, rows, **options):
    file = tmp_path / "judgments.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = judge_score("arena_hard", [file], **options)
    notes = " ".join(line["notes"] for _, lines in judgment_rows(result) for line in lines if "notes" in line)
    return result["models"]["m, hard_prompt"], " ".join(notes.split())


def test_questions_and_games_add_up(tmp_path):
    # Both count; one label is missing; one request failed; one game alone; a label that there is not.
    rows = [
        _row("q1", "A>B", "B>A"),
        _row("q2", "A=B", ""),
        _row("q3", "A>>B", None),
        _row("q4", "A>B"),
        _row("q5", "X", "B>A"),
    ]
    found, notes = _scored(tmp_path, rows)
    assert (found["n_games"], found["n_counted"], found["n_left_out"], found["n_without_verdict"]) == (9, 2, 4, 3)
    assert (found["n_questions"], found["n_counted_questions"], found["n_null"]) == (5, 1, 4 + 3)
    assert "500 questions = 1 that count + 4 judged without a verdict that counts + 495 without a judgment" in notes
    assert "9 games = 2 that count + 4 left out, as the question's other game has no verdict + 3 without a verdict" in notes


def test_questions_without_a_judgment_are_of_those_that_are_given(tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        "".join(json.dumps({"uid": f"q{n}", "category": "hard_prompt", "prompt": "?"}) + "\n" for n in range(1, 4))
    )
    _, notes = _scored(tmp_path, [_row("q1", "A>B", "B>A")], questions=str(questions))
    assert "m, hard_prompt: 2 questions have no judgment: q2, q3, of the 3 in --questions" in notes
    assert "2 games = 2 that count + 0 left out, as the question's other game has no verdict + 0 without a verdict" in notes
