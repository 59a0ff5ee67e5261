"""Recorded judgments: who judged what is told by rows, names and folders, and a bad row is counted for what it is."""

import gzip
import json
from pathlib import Path

import pytest

from evaluation.judging.recorded.score import judge_score
from tests.unit.evaluation.fake_engine import FakeEngine
from tests.unit.evaluation.judgment_files import (
    REFERENCE,
    arena_file,
    comparison,
    evaluated,
    notes,
    scores_file,
    wildbench_file,
)
from tests.unit.evaluation.test_judging import fair, play


def test_both_answers_style_is_read_from_the_judges_prompt(tmp_path):
    path = arena_file(tmp_path / "f.jsonl", [("B>A", "A>B")] * 3, prompts=True)
    result = judge_score("arena_hard", [path])["models"]["m"]
    assert result["lengths"]["candidate"]["mean"] == 5 and result["lengths"]["baseline"]["mean"] == 2
    assert result["lengths"]["longer_won"] == 1.0 and result["style_controlled"]["coefficients"]["bold"] == 0.0


def test_the_reference_is_told_by_path_name_or_not_at_all(tmp_path):
    swapped = json.dumps([comparison(n, "m", 2, first="m" if n % 2 else REFERENCE) for n in range(4)])
    for path, fits in (
        (tmp_path / "pairwise.v2.eval=judge.ref=other-7b.m.json", True),
        (tmp_path / "m.json", True),
        (tmp_path / "unnamed.json", False),
    ):
        path.write_text(swapped.replace(REFERENCE, "org/other-7b"))
        if fits:
            assert judge_score("wildbench", [path])["models"]["m"]["wb_reward"] == 100.0
        else:
            with pytest.raises(ValueError, match="must tell which model is the reference, got m, org/other-7b"):
                judge_score("wildbench", [path])


def test_every_row_of_upstreams_files_counts(tmp_path):
    """As in upstream's code, which divides by the rows; the questions are counted as what they are."""
    rows = [comparison(n, "m", 2, first="m" if n % 2 else REFERENCE) for n in range(4)] + [comparison(0, "tie", 0)] * 2
    path = wildbench_file(tmp_path / f"ref={REFERENCE}" / "m.json", rows)
    result = judge_score("wildbench", [path])["models"]["m"]
    assert result["wb_reward"] == pytest.approx(100 * 4 / 6) and result["n"] == 4 and result["n_games"] == 6
    assert result["n_repeated"] == 1, "the other order of s0 first, then that again"
    scores = scores_file(tmp_path / "scores.json", ["5", "5", "8"])
    scores.write_text(json.dumps(json.loads(scores.read_text()) + json.loads(scores.read_text())[2:]))
    scored = judge_score("wildbench", [scores])["models"]["org/m"]
    assert scored["mean_score"] == 6.5 and scored["n"] == 3 and scored["n_repeated"] == 1
    assert "1 × a question that was there before; every one counts" in notes(judge_score("wildbench", [scores]))
    assert judge_score("wildbench", [scores, scores])["models"]["org/m"] == scored, "a path that is given twice is one file"


def test_repeats_in_two_files_count_and_our_own_games_replace_each_other(tmp_path):
    first, second = (arena_file(tmp_path / name, [pair] * 4) for name, pair in (("a", ("B>A", "A>B")), ("b", ("A>B", "B>A"))))
    result = judge_score("arena_hard", [first, second])["models"]["m"]
    assert result["score"] == 50.0 and result["n_repeated"] == 4 and result["repeated_rows"] == "counted"
    play(FakeEngine(fair), tmp_path)
    games = tmp_path / "games.jsonl"
    once = judge_score("arena_hard", [games])["models"]["new"]
    # Two runs that share an artifact of the cache.
    (tmp_path / "link.jsonl").symlink_to(games)
    linked = judge_score("arena_hard", [games, tmp_path / "link.jsonl"])["models"]["new"]
    assert {**linked, "n_repeated": 0} == once
    games.write_text(games.read_text() * 2)
    again = judge_score("arena_hard", [games])["models"]["new"]
    assert again["n_repeated"] == once["n_games"] and again["repeated_rows"] == "replaced"
    assert {**again, "n_repeated": 0} == once


def test_what_evaluation_scripts_write_is_read_as_the_comparison_that_it_is(tmp_path):
    config = {"mode": "pairwise", "gpt": "gpt-4-turbo", "max_words": 2}
    rows = [
        evaluated(0, "A++"),
        evaluated(1, "B+", first=REFERENCE),
        evaluated(2, "A=B"),
        evaluated(3, "A+", first=REFERENCE, model_output="one two", eval_config=config),
    ]
    path = wildbench_file(tmp_path / "m.json", rows[:3])
    found = judge_score("wildbench", [path])["models"]["m"]
    assert found["wb_reward"] == pytest.approx(100 * 1.5 / 3) and found["baseline"] == REFERENCE and found["n_null"] == 0
    path = wildbench_file(tmp_path / "m.json", [{**row, "eval_config": config} for row in rows])
    found = judge_score("wildbench", [path])["models"]["m"]
    assert found["judge"] == "gpt-4-turbo" and found["n_cut"] == 3 and found["wb_reward"] == pytest.approx(100 * -0.5 / 4)
    wildbench_file(path, [evaluated(0, "A"), evaluated(1, "B")])
    with pytest.raises(
        ValueError, match=r"must have a choice of WildBench v2 .*, got A, whose extent nobody knows in record 1"
    ):
        judge_score("wildbench", [path])
    rows = [{"session_id": "s", "generator": "m", "criteria": "c", "score": 7, "model_output": "x"}]
    with pytest.raises(ValueError, match="must be the score of a whole answer"):
        judge_score("wildbench", [wildbench_file(path, rows)])


def test_two_files_that_dont_name_their_judges_are_refused(tmp_path):
    files = [scores_file(tmp_path / name / "m.json", [score] * 2) for name, score in (("a", "9"), ("b", "2"))]
    with pytest.raises(ValueError, match=r"must name their judges .*a/m\.json and .*b/m\.json for org/m; .*eval=<judge>"):
        judge_score("wildbench", files)
    other = scores_file(tmp_path / "c" / "m.json", ["9"] * 2, model="org/other")
    assert set(judge_score("wildbench", [files[0], other])["models"]) == {"org/m", "org/other"}
    arena = [arena_file(tmp_path / name, [("B>A", "A>B")], judge=None) for name in ("d", "e")]
    with pytest.raises(ValueError, match="give each row its `judge`"):
        judge_score("arena_hard", arena)
    (tmp_path / "model_judgment" / "k").mkdir(parents=True)
    path = arena_file(tmp_path / "model_judgment" / "k" / "m.jsonl", [("B>A", "A>B")], judge=None)
    assert judge_score("arena_hard", [path])["models"]["m"]["judge"] == "k"


def test_folders_name_judge_and_reference_also_from_inside(tmp_path, monkeypatch):
    folder = tmp_path / "eval=judge-2024-05-13" / "ref=other"
    swapped = json.dumps([comparison(n, "m", 2, first="m" if n % 2 else REFERENCE) for n in range(4)])
    wildbench_file(folder / "result.json", json.loads(swapped.replace(REFERENCE, "org/other")))
    monkeypatch.chdir(folder)
    found = judge_score("wildbench", [Path("result.json")])["models"]["m"]
    assert found["baseline"] == "org/other" and found["judge"] == "judge-2024-05-13"


@pytest.mark.parametrize(
    ("name", "judge"),
    [
        ("score.v2.eval=gpt-4o-2024-05-13.deepseekv2-chat.json", "gpt-4o-2024-05-13"),
        ("score.v2.eval=gpt-4o-2024-05-13.01-model.json.gz", "gpt-4o-2024-05-13"),
        ("eval=claude-3-5-sonnet-20240620.7b.json", "claude-3-5-sonnet-20240620"),
        ("eval=gpt-3.5-turbo.M.json", "gpt-3.5-turbo"),
        ("eval=gpt-3.5-turbo.json", "gpt-3.5-turbo"),
        ("eval=gpt-3.5-turbo.Qwen2.5-7B.json", "gpt-3.5-turbo"),
        ("eval=judge-v0.1.m.json", "judge-v0.1"),
        ("eval=gpt-4o.mini/Qwen.json", "gpt-4o.mini"),
        ("m.json", None),
    ],
)
def test_the_judge_by_the_path(tmp_path, name, judge):
    assert judge_score("wildbench", [scores_file(tmp_path / name, ["5", "6"])])["models"]["org/m"]["judge"] == judge


@pytest.mark.parametrize(
    ("change", "num_games", "num_null"),
    [
        ({"games": None}, 198, 0),
        ({"games": []}, 198, 0),
        ({"games": [{"score": "B>A"}, {"score": "A>B"}, {"score": "A>B"}]}, 200, 0),
        ({"games": [{"score": float("nan")}, {"score": "A>B"}]}, 200, 1),
        ({"games": [{"score": ["A>B"]}, "none"]}, 200, 2),
        ({"model": None}, 198, 0),
        ({"question_id": None}, 198, 0),
        (None, 198, 0),
        ("no json", 198, 0),
    ],
)
def test_a_bad_row_of_arena_hard_is_null_or_missing(tmp_path, change, num_games, num_null):
    path = arena_file(tmp_path / "f.jsonl", [("B>A", "A>B")] * 100)
    lines = path.read_text().splitlines()
    bad = json.dumps({**json.loads(lines[7]), **change} if isinstance(change, dict) else change)
    path.write_text("\n".join([*lines[:7], bad if change != "no json" else "{", *lines[8:]]))
    result = judge_score("arena_hard", [path])
    found = result["models"]["m"]
    assert (found["n_games"], found["n_null"], found["n_faulty"]) == (num_games, num_null, 1) and found["score"] == 100.0
    assert "in record 8" in found["first_fault"] and "1 × a row with faults" in notes(result)
    path.write_text(bad + "\n")
    if "first two count" not in found["first_fault"] and num_null != 1:
        with pytest.raises(ValueError, match="in record 1; give a file of arena_hard's judgments"):
            judge_score("arena_hard", [path])


@pytest.mark.parametrize(
    ("change", "num_games", "num_null"),
    [({"model_output": None}, 20, 1), ({"model_output": []}, 20, 1), ({"session_id": None}, 19, 0), (None, 19, 0)],
)
def test_a_bad_row_of_wildbench_is_null_or_missing(tmp_path, change, num_games, num_null):
    path = scores_file(tmp_path / "m.json", ["5", "6"] * 10)
    rows = json.loads(path.read_text())
    rows[0] = {**rows[0], **change} if change else None
    path.write_text(json.dumps(rows))
    found = judge_score("wildbench", [path])["models"]["org/m"]
    assert (found["n_games"], found["n_null"], found["n_faulty"]) == (num_games, num_null, 1) and found["n_empty"] == 0
    assert found["mean_characters"] == 4


def test_a_bad_row_of_our_own_is_null_or_missing(tmp_path):
    play(FakeEngine(fair), tmp_path)
    path = tmp_path / "games.jsonl"
    whole = judge_score("arena_hard", [path])["models"]["new"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    ours = next(n for n, row in enumerate(rows) if row["candidate"] == "new")
    rows[ours]["verdict"] = ["A>B"]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[ours], "candidate": ["new"]}]))
    found = judge_score("arena_hard", [path])["models"]["new"]
    assert found["n_faulty"] == 2 and found["n_null"] == 1 and found["n_games"] == whole["n_games"]
    with pytest.raises(ValueError, match="must hold games of the form checklist_score or checklist_pairwise"):
        judge_score("wildbench", [path])
    game = {"form": "checklist_score", "verdict": 3, "question_id": "q", "game": 1, "candidate": "m", "judge": "j"}
    with pytest.raises(ValueError, match=r"must have output as a judge stage writes it, got \[None\] in record 1"):
        judge_score("wildbench", [wildbench_file(path, [game])])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("candidate_style", "long"),
        ("baseline_style", {"tokens": 3}),
        ("candidate_style", {"tokens": "3", "headers": 0, "lists": 0, "bold": 0}),
        ("candidate_style", {"tokens": -3, "headers": 0, "lists": 0, "bold": 0}),
        ("null_reason", ["no reply"]),
        ("output", "stop"),
        ("baseline_output", ["a"]),
        ("output", {"empty": False, "cut": False}),
    ],
)
def test_a_field_of_our_own_of_another_type_is_named(tmp_path, name, value):
    play(FakeEngine(fair), tmp_path, "pairwise_hard_prompt")
    path = tmp_path / "games.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in [{**rows[0], "verdict": None, name: value}, *rows[1:]]))
    found = judge_score("arena_hard", [path])["models"]["new, hard_prompt"]
    assert found["n_faulty"] == 1 and found["n_games"] == 23
    assert f"games.jsonl must have {name} as a judge stage writes it" in found["first_fault"]


def test_a_bad_comparison_is_null_or_missing(tmp_path):
    rows = [comparison(n, "m", 2, first="m" if n % 2 else REFERENCE) for n in range(40)]
    rows[3]["model_outputs"] = None
    rows[4]["model_outputs"]["m"] = None
    rows[5]["model_A"] = rows[5]["model_B"]
    found = judge_score("wildbench", [wildbench_file(tmp_path / "m.json", [None, *rows])])["models"]["m"]
    assert found["n_faulty"] == 4 and found["n_games"] == 39 and found["n_null"] == 2
    assert found["wb_reward"] == pytest.approx(100 * 37 / 39)
    assert found["first_fault"] == "m.json must hold one object per record, got NoneType in record 1"


@pytest.mark.parametrize(
    ("benchmark", "text"),
    [
        ("arena_hard", ""),
        ("arena_hard", "not json\n"),
        ("arena_hard", '{"question_id": "1"}\n'),
        ("arena_hard", '{"question_id": "1", "model": "m", "games": "none"}\n'),
        ("arena_hard", '{"question_id": "1", "model": "m", "games": [{"score": 3}]}\n'),
        ("arena_hard", "[1, 2]"),
        ("arena_hard", "\x1f\x8bnot gzip"),
        ("wildbench", "{}\n"),
        ("wildbench", '[{"session_id": "s", "model_test": "m", "score": "3", "model_output": 4}]'),
        ("wildbench", "[" * 5000),
        ("wildbench", '[{"session_id": "s", "model_A": "m", "model_B": "m", "winner": "m"}]'),
    ],
)
def test_ill_formed_files_are_refused_by_name(tmp_path, benchmark, text):
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"bad\.json must"):
        judge_score(benchmark, [path])


def test_a_copy_of_a_file_is_refused_and_doubles_no_game(tmp_path):
    first = arena_file(tmp_path / "a.jsonl", [("B>A", "A>B")] * 4)
    for name, data in (("copy.jsonl", first.read_bytes()), ("copy.jsonl.gz", gzip.compress(first.read_bytes()))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(
            ValueError, match=r"files must be given once, .* got .*a.jsonl and .*copy.jsonl.*same judgments of m"
        ):
            judge_score("arena_hard", [first, tmp_path / name])
    (tmp_path / "link.jsonl").symlink_to(first)
    with pytest.raises(ValueError, match="leave one of them out"):
        judge_score("arena_hard", [first, tmp_path / "link.jsonl"])
    # Under another judge's name it is another judge's.
    for name in ("one", "two"):
        folder = tmp_path / "model_judgment" / name
        folder.mkdir(parents=True)
        arena_file(folder / "m.jsonl", [("B>A", "A>B")] * 4, judge=None)
    found = judge_score("arena_hard", [tmp_path / "model_judgment" / name / "m.jsonl" for name in ("one", "two")])
    assert set(found["models"]) == {"m (one)", "m (two)"}
