"""Prompts to sample from: every kind of source, the pool and what is held out, and what a round takes of it."""

import json
import os
from pathlib import Path

import pytest

from data.sampling.prompts import check_source, load_prompts, prompts_of_round
from evaluation.benchmarks import gsm8k, math


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_problems_have_the_benchmarks_own_messages_and_can_be_scored(tmp_path):
    rows = [{"question": "1 + 1?", "answer": "One and one.\n#### 2"}, {"question": "2 + 3?", "answer": "#### 5"}]
    first, second = load_prompts("gsm8k", write(tmp_path / "train.jsonl", rows), 2)
    assert first["messages"] == gsm8k.messages({"question": "1 + 1?"}) and first["item"]["answer"] == "2"
    assert first["id"] == first["item"]["id"] != second["id"]
    assert gsm8k.score(second["item"], '{"reasoning": "", "answer": "5"}', "stop").outcome == "correct"


def test_math_takes_the_boxed_answer_or_the_answer_alone(tmp_path):
    rows = [
        {"problem": "x?", "level": "Level 2", "type": "Algebra", "solution": "So \\boxed{\\frac12}."},
        {"problem": "y?", "level": "Level 1", "subject": "Prealgebra", "answer": "16"},
    ]
    first, second = load_prompts("math", write(tmp_path / "train.jsonl", rows), 2)
    assert (first["item"]["answer"], second["item"]["answer"]) == ("\\frac12", "16")
    assert second["item"]["subject"] == "Prealgebra" and second["messages"] == math.messages({"question": "y?"})


def test_a_preference_source_gives_its_different_prompts(tmp_path):
    rows = [{"prompt": text, "chosen": "a", "rejected": "b"} for text in ("one", "two", "one", "three")]
    found = load_prompts("pairs", write(tmp_path / "pairs.jsonl", rows), 3)
    assert [record["messages"][0]["content"] for record in found] == ["one", "two", "three"]
    assert all(record["item"] == {} for record in found)


def test_a_folders_split_is_chosen(tmp_path):
    for split, text in (("train", "one"), ("test", "two")):
        write(tmp_path / f"{split}.jsonl", [{"prompt": text, "chosen": "a", "rejected": "b"}])
    (found,) = load_prompts("pairs", str(tmp_path), 1, split="test")
    assert found["messages"][0]["content"] == "two"


@pytest.mark.parametrize(
    ("path", "config"), [("some/set", "c"), (None, "main")], ids=["a hub id of the recipe", "the source's own hub id"]
)
def test_a_hubs_set_is_asked_for_by_split_config_and_revision(monkeypatch, path, config):
    import datasets

    asked = []

    def load_dataset(*arguments, **more):
        asked.append((arguments, more["split"], more["revision"]))
        return datasets.Dataset.from_list([{"question": "1 + 1?", "answer": "#### 2"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    given = {"config": config} if path else {}
    load_prompts("gsm8k", path, 1, split="test", revision="abc", **given)
    assert asked == [((path or "openai/gsm8k", config), "test", "abc")]


def test_prompts_end_before_a_reply(tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (found,) = load_prompts("prompts", write(tmp_path / "p.jsonl", [{"messages": turns}]), 1)
    assert found["messages"] == turns[:1]


def test_too_few_prompts_and_bad_lines_are_refused(tmp_path):
    path = write(tmp_path / "train.jsonl", [{"question": "1 + 1?", "answer": "#### 2"}])
    with pytest.raises(
        ValueError, match=r"num_prompts and held_out_prompts must be at most 1 together for .*, got 3; ask for fewer"
    ):
        load_prompts("gsm8k", path, 3)
    path = write(tmp_path / "bad.jsonl", [{"question": "1 + 1?", "answer": "#### 2"}, {"question": "?", "answer": "two"}])
    with pytest.raises(ValueError, match=r"sample.path must hold prompts, got .* with line 2: answer must end with ####"):
        load_prompts("gsm8k", path, 2)
    with pytest.raises(ValueError, match=r"sample.path must say where the source prompts reads, got nothing"):
        check_source("prompts", None)
    with pytest.raises(ValueError, match=r"sample.path must be left out for number_comparison"):
        load_prompts("number_comparison", path, 1)
    with pytest.raises(ValueError, match=r"sample.revision must be left out for number_comparison, .* got abc; remove it"):
        load_prompts("number_comparison", None, 1, revision="abc")


def test_rounds_go_through_the_pool_in_turn():
    pool = [{"id": number} for number in range(5)]
    taken = [[one["id"] for one in prompts_of_round(pool, number, 2)] for number in (1, 2, 3, 4)]
    assert taken == [[0, 1], [2, 3], [4, 0], [1, 2]]
    assert prompts_of_round(pool, 7, None) == pool


@pytest.mark.parametrize(
    ("source", "file", "rows"),
    [("gsm8k", "gsm8k/train.first1000.jsonl", 1000), ("math", "math/MATH_train.first100_per_subject.jsonl", 700)],
)
def test_real_training_splits(source, file, rows):
    folder = os.environ.get("BNF_TEST_DATA")
    if not folder:
        pytest.skip("BNF_TEST_DATA names no folder")
    found = load_prompts(source, str(Path(folder) / file), rows - 10)
    assert len({record["id"] for record in found}) == rows - 10
