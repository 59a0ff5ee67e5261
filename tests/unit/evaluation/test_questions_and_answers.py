"""Questions and recorded answers on file, in every format that is read."""

import json
import os
from pathlib import Path

import pytest

from evaluation.benchmarks import arena_hard, mt_bench, wildbench
from evaluation.judging.answers import completions_by_question, read_answers

QUESTIONS = arena_hard.load("sample", None)


def test_recorded_answers_of_every_format(tmp_path):
    rows = {
        "new": {
            "uid": "q",
            "model": "m",
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": {"answer": "a"}}],
        },
        "old": {"question_id": "q", "model_id": "m", "choices": [{"index": 0, "turns": [{"content": "a"}]}]},
        "mt": {"question_id": "q", "model_id": "m", "choices": [{"index": 0, "turns": ["a"]}]},
        "wild": {"session_id": "q", "output": ["a"], "generator": "m"},
        "ours": {"id": "q", "completion": "a"},
    }
    for name, row in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(row) + "\n")
        found = read_answers(path)
        assert found.turns == {"q": ["a"]} and found.model == ("ours" if name == "ours" else "m"), name
    path.write_text(json.dumps(rows["old"]) + "\n" + json.dumps(rows["old"]) + "\n")
    with pytest.raises(ValueError, match="each question once, got 'q' again in record 2"):
        read_answers(path)
    path.write_text('{"uid": "q", "messages": 3}\n')
    with pytest.raises(ValueError, match="must hold answers with uid and messages"):
        read_answers(path)
    records = [
        {"id": "7-2", "question_id": "7", "turn": 2, "completion": "b"},
        {"id": "7-1", "question_id": "7", "turn": 1, "completion": "a"},
    ]
    assert completions_by_question(records) == {"7": ["a", "b"]}


def test_question_files(tmp_path):
    assert len(QUESTIONS) == 12 and len({item["prompt"] for item in QUESTIONS}) == 12
    assert arena_hard.messages(QUESTIONS[0]) == [{"role": "user", "content": QUESTIONS[0]["prompt"]}]
    path = tmp_path / "question.jsonl"
    rows = (
        '{"uid": "1", "prompt": "line\u2028separator"}\n{"question_id": "2", "turns": [{"content": "older"}]}\n{"uid": "3"}\n'
    )
    path.write_text(rows)
    assert [item["prompt"] for item in arena_hard.load(str(path), 2)] == ["line\u2028separator", "older"]
    with pytest.raises(ValueError, match=r"question.jsonl, line 3"):
        arena_hard.load(str(path), None)
    with pytest.raises(FileNotFoundError, match="must be an existing file"):
        arena_hard.load(str(tmp_path / "none.jsonl"), None)
    path.write_text(
        json.dumps({"id": "1", "conversation_input": [{"role": "assistant", "content": "x"}], "primary_tag": "Math"})
    )
    with pytest.raises(ValueError, match="ends with the user's message, got assistant"):
        wildbench.load(str(path), None)
    path.write_text(json.dumps({"question_id": 1, "category": "math", "turns": ["one"]}))
    with pytest.raises(ValueError, match="have 2 turns of text"):
        mt_bench.load(str(path), None)


@pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")
def test_upstream_questions_and_answers():
    data = Path(os.environ["BNF_TEST_DATA"])
    items = arena_hard.load(str(data / "arena_hard_v0.1" / "question.jsonl"), None)
    assert len(items) == arena_hard.NUM_ITEMS == len({item["id"] for item in items})
    baseline = read_answers(data / "arena_hard_v0.1" / "model_answer" / "gpt-4-0314.jsonl")
    assert baseline.model == arena_hard.BASELINE and {item["id"] for item in items} == set(baseline.turns)
    turns = mt_bench.load(str(data / "mt_bench" / "question.jsonl"), None)
    assert len(turns) == mt_bench.NUM_ITEMS
    references = mt_bench.read_references(str(data / "mt_bench" / "reference_answer.gpt-4.jsonl"))
    assert {item["id"] for item in turns if item["category"] in mt_bench.REFERENCED} == set(references)
    assert {item["category"]: mt_bench.temperature(item) for item in turns} == {
        **{"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1},
        **dict.fromkeys(("reasoning", "math", "coding", "extraction"), 0.0),
    }
