"""JSON from outside that evaluation reads: what Python's reader would lose in silence is a fault of its record."""

import json
import os

import pytest

from evaluation.judging.answers import read_answers
from evaluation.judging.recorded.score import judge_score
from evaluation.records import BadRow, read_json, read_numbered, read_records, read_repaired, read_rows, write_whole
from evaluation.scoring.zeroeval import load_zeroeval_results

GOOD = [{"id": "a", "n": 1}, {"id": "b", "n": [2, {"c": "ü"}]}]
TWICE = '{"id": "t", "in": {"x": 1, "x": 2}}'
LONG = '{"id": "l", "n": ' + "9" * 5000 + "}"


@pytest.mark.parametrize("bad, word", [(TWICE, "'x' twice"), (LONG, "one of 5000")])
@pytest.mark.parametrize("form", ["{0}\n{1}\n{2}\n", "[{0}, {1},\n{2}]", "{0}{1}\n\n{2}"])
def test_a_key_twice_and_an_endless_integer_cost_their_own_record(form, bad, word):
    first, second = map(json.dumps, GOOD)
    rows = read_rows(form.format(first, bad, second).encode())
    assert [rows[0], rows[2]] == GOOD and isinstance(rows[1], BadRow) and word in rows[1].fault


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_is_read_as_python_reads_it(indent):
    for rows in (GOOD, [], [[]], ["a", None, 1.5, -0.0, 10**40]):
        assert read_rows(f" {json.dumps(rows, indent=indent)} \n".encode()) == rows


@pytest.mark.parametrize("text", ["[1, ]", "[1 2]", "[,1]", "[1", "[", "[1,", "[1] 2", "[1]]"])
def test_a_broken_list_is_refused_where_python_refuses_it(text):
    with pytest.raises(json.JSONDecodeError) as found:
        read_rows(text.encode())
    with pytest.raises(json.JSONDecodeError) as known:
        json.loads(text)
    # Of a comma before the bracket newer Pythons name the comma.
    assert found.value.pos in (known.value.pos, text.index("]") if "]" in text else len(text))


def test_a_verdict_that_is_said_twice_is_no_verdict(tmp_path):
    path = tmp_path / "games.jsonl"
    good = {"question_id": "q", "model": "m", "judge": "j", "games": [{"score": "B>A"}, {"score": "A>B"}]}
    path.write_text(json.dumps(good) + "\n" + json.dumps(good).replace('"B>A"', '"B>A", "score": "A>B"') + "\n")
    found = judge_score("arena_hard", [path])["models"]["m"]
    assert (found["n_games"], found["n_faulty"]) == (2, 1)
    assert found["first_fault"] == "games.jsonl must have each key once, got 'score' twice in record 2"


def test_recorded_answers_and_results_with_a_key_twice_are_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"id": "q", "completion": "a", "completion": "b"}')
    with pytest.raises(ValueError, match=r"a\.json must have each key once, got 'completion' twice in record 1"):
        read_answers(path)
    path.write_text('[{"id": "q", "output": ["1"], "output": ["2"], "answer": "2"}]')
    with pytest.raises(ValueError, match=r"a\.json must have each key once, got 'output' twice"):
        load_zeroeval_results(path, "gsm8k")


FACTS = {"characters": 3, "empty": False, "cut": False}
GAME = {
    **{"form": "checklist_pairwise", "question_id": "q", "game": 1, "candidate": "m", "judge": "j", "baseline": "b"},
    **{"verdict": "A>B", "output": FACTS, "baseline_output": FACTS},
}


@pytest.mark.parametrize(
    "name, value",
    [
        ("output", {}),
        ("output", {**FACTS, "empty": "no"}),
        ("baseline_output", {**FACTS, "characters": "3"}),
        ("baseline_output", {**FACTS, "characters": True}),
        ("baseline_output", None),
        ("game", True),
        ("game", 3),
        ("candidate", 7),
        ("baseline", 7),
    ],
)
def test_a_game_that_no_judge_stage_wrote_is_a_fault_and_no_traceback(tmp_path, name, value):
    path = tmp_path / "games.jsonl"
    other = {**GAME, "question_id": "p"}
    path.write_text(json.dumps(other) + "\n" + json.dumps({**GAME, name: value}) + "\n")
    found = judge_score("wildbench", [path])["models"]["m"]
    assert (found["n_games"], found["n_faulty"]) == (1, 1)
    assert f"must have {name} as a judge stage writes it" in found["first_fault"]


@pytest.mark.parametrize("verdict, score", [("7", 70), ("7.5", 75), (" 7 ", 70), ("1_0", None), ("٧", None), ("1e1", None)])
def test_a_rating_as_text_is_a_plain_number(tmp_path, verdict, score):
    path = tmp_path / "games.jsonl"
    game = {**GAME, "form": "checklist_score", "verdict": verdict}
    path.write_text(json.dumps(game) + "\n")
    found = judge_score("wildbench", [path])["models"]["m"]["wb_score"]
    assert found == (None if score is None else pytest.approx((score / 10 - 5) * 20))


def test_a_line_that_a_kill_left_unfinished_is_cut_off_in_the_file_too(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "\xc3')
    assert read_repaired(path) == [{"id": "a"}] and path.read_bytes() == b'{"id": "a"}\n'
    assert read_repaired(tmp_path / "none.jsonl") == []
    path.write_bytes(b'{"id": "a"}\n[1]\n')
    with pytest.raises(ValueError, match=r"a\.jsonl must hold a JSON object per line, got list on line 2; remove it"):
        read_repaired(path)


def test_zeros_that_a_power_cut_left_are_cut_off_at_the_end_and_named_elsewhere(tmp_path):
    """The other lines may have been paid for: the remedy is not to remove the file."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + b"\0" * 4096)
    assert read_repaired(path) == [{"id": "a"}] and path.read_bytes() == b'{"id": "a"}\n'
    whole = b'{"id": "a"}\n' + b"\0" * 4096 + b'\n{"id": "b"}\n'
    path.write_bytes(whole)
    with pytest.raises(
        ValueError, match=r"a\.jsonl must hold a JSON object per line, .* on line 2; remove it, that line alone"
    ):
        read_repaired(path)
    assert path.read_bytes() == whole


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """What has the name is taken for whole by a stage that goes on."""
    path, seen = tmp_path / "a.jsonl", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.exists()))
    write_whole(path, [{"id": "a"}])
    assert seen == [False] and path.exists()


def test_records_come_back_as_they_were_written(tmp_path):
    path, records = tmp_path / "a.jsonl", [{"t": "line\u2028end\n"}, {"t": "half \ud83d"}, {"t": "ü"}]
    for ensure_ascii in (False, True):
        write_whole(path, records, ensure_ascii=ensure_ascii)
        assert list(read_records(path)) == records
        assert [number for number, _ in read_numbered(path, "")] == [1, 2, 3]
    assert path.read_bytes().isascii()


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_file_that_is_no_object_says_what_to_do(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json must be a JSON object, got .*; fetch it again"):
        read_json(path, "fetch it again")
