"""The project's own code output prediction: its functions return what their items say, and none is in both halves."""

import ast
import json
import subprocess
import sys

import pytest

from data.sampling.prompts import load_prompts
from data.sources import code_output as source
from evaluation.benchmarks import code_output, crux


def reply(answer: str) -> str:
    return json.dumps({"reasoning": "so it is", "answer": answer})


def test_python_gives_what_the_items_say():
    """In a process of its own: the project itself executes nothing."""
    items = [*code_output.load(None, None), *code_output.train_items(400)]
    script = "\n".join(
        f"{item['code']}\nx = {item['input']}\nassert repr(f(x)) == {item['answer']!r}, ({item['id']!r}, f({item['input']}))"
        for item in items
    )
    done = subprocess.run([sys.executable, "-I", "-c", script + "\nprint('all')"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "all\n", done.stderr[-500:]
    assert len(items) == 600


def test_training_and_held_out_items_share_no_function():
    held_out, training = code_output.load(None, None), code_output.train_items(2000)
    assert len(held_out) == code_output.NUM_ITEMS
    codes = [item["code"] for item in (*held_out, *training)]
    ids = {item["id"] for item in (*held_out, *training)}
    assert len(set(codes)) == len(codes) == len(ids) == 2200


def test_items_are_always_the_same_and_of_several_kinds():
    assert code_output.load(None, 5) == code_output.load("sample", None)[:5]
    assert code_output.train_items(64) == code_output.train_items(128)[:64]
    kinds = {type(ast.literal_eval(item["answer"])) for item in code_output.load(None, None)}
    assert kinds == {int, str, list}
    # No answer is right so often that a model which gives it alone seems to understand.
    answers = [item["answer"] for item in code_output.load(None, None)]
    assert max(answers.count(answer) for answer in set(answers)) <= len(answers) * 0.05


def test_gold_answers_are_all_right_and_empty_ones_all_wrong():
    for item in code_output.load(None, None):
        assert code_output.score(item, reply(item["answer"]), "stop").outcome == "correct"
        assert code_output.score(item, "", "stop").outcome == "no_answer"
        assert code_output.score(item, reply(""), "stop").outcome != "correct"


def test_prompt_and_verdict_are_crux_own():
    [item] = code_output.load(None, 1)
    assert code_output.messages(item) == crux.messages(item)
    assert f"assert f({item['input']}) == ??" in code_output.messages(item)[0]["content"]
    assert code_output.score(item, reply("nonsense"), "stop") == crux.score(item, reply("nonsense"), "stop")


def test_the_source_gives_training_items_alone():
    prompts = load_prompts("code_output", None, 8)
    assert prompts == source.make(8) and [one["item"] for one in prompts] == code_output.train_items(8)
    assert all(one["messages"] == code_output.messages(one["item"]) for one in prompts)
    with pytest.raises(ValueError, match=r"sample\.path must be left out for code_output"):
        load_prompts("code_output", "x.jsonl", 1)


def test_files_and_more_items_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"code_output.source must be left out, got 'x.jsonl'"):
        code_output.load("x.jsonl", None)
    with pytest.raises(ValueError, match="at most 20000 for code_output, got 20001"):
        code_output.train_items(20001)
