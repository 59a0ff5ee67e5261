"""Native files of items, completions, scores and games: each fault is refused with its file, line, field, rule and value."""

import json
from pathlib import Path

import pytest

from evaluation.benchmarks import aime_2024, code_output, gpqa_diamond, gsm8k, ifeval, mmlu_pro, number_comparison
from evaluation.item_files import completion_lines, games, item_lines, score_lines
from evaluation.judging.answers import read_answers
from evaluation.judging.recorded.readers import read_judgments
from evaluation.paired import read_scores
from evaluation.records import read_appended, read_json, read_records, read_repaired
from evaluation.scoring.score import score_completions
from tests.unit.evaluation.report_folders import write_lines

COMPLETION = {"id": "a", "completion": "<think>x</think>yes", "finish_reason": "stop", "num_completion_tokens": 5}
SCORE = {"id": "a", "outcome": "wrong", "answer": None, "rule": "none", "finish_reason": "stop", "num_completion_tokens": 5}
GAME = {"question_id": "q", "candidate": "m", "game": 1, "verdict": "A>B", "finish_reason": "stop"}


def _without(record, name):
    return {key: value for key, value in record.items() if key != name}


def _refused(read, path: Path, remedy: str = "") -> str:
    with pytest.raises(ValueError) as caught:
        list(read(path))
    message = str(caught.value)
    assert message.startswith(str(path)) and remedy in message and len(message) < 700
    return message


# Per-item results


@pytest.mark.parametrize("name", list(SCORE))
def test_a_score_that_lacks_a_field_is_refused_with_file_line_and_remedy(name, tmp_path):
    write_lines(tmp_path / "scores.jsonl", [{**SCORE, "id": "first"}, _without(SCORE, name)])
    with pytest.raises(ValueError, match=rf"scores\.jsonl must have {name} as .*, got .* on line 2; score it again"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": "right"}, "have outcome as one of correct, wrong, no_answer, error, got 'right'"),
        ({"answer": 7}, r"have answer as str \| None, got 7"),
        ({"num_completion_tokens": -1}, "have num_completion_tokens as a whole number from 0, or None, got -1"),
        ({"metrics": {"x": "y"}}, "have metrics as a mapping to numbers, got .*"),
        ({"content": 5}, "have content as str, got 5"),
        ({"sample": -1}, "have sample as a number from 0, got -1"),
        ({"answer_start": -3}, "have answer_start as a whole number from 0, or None, got -3"),
    ],
)
def test_a_score_of_another_type_is_refused(change, message, tmp_path):
    write_lines(tmp_path / "scores.jsonl", [{**SCORE, **change}])
    with pytest.raises(ValueError, match=f"{message} on line 1; score it again"):
        read_scores(tmp_path)


def test_files_without_a_record_and_records_without_their_fields_are_refused(tmp_path):
    file = tmp_path / "scores.jsonl"
    file.write_text("")
    for read in (score_lines, item_lines, completion_lines):
        assert "got none" in _refused(lambda path, read=read: read(path, "again"), file, "again")
    for name in ("question_id", "candidate", "game", "verdict"):
        write_lines(file, [GAME, _without(GAME, name)])
        assert f"have {name} as" in _refused(games, file, "on line 2; run the stage `judge` again")
    whole = {"characters": 4, "empty": False, "cut": False}
    write_lines(file, [{**GAME, "output": whole, "baseline_output": None}])
    assert len(list(games(file))) == 1
    for wrong in ("stop", ["a"], 99999, {}, {**whole, "characters": "4"}, {**whole, "cut": 1}):
        write_lines(file, [GAME, {**GAME, "output": wrong}])
        assert "have output as a mapping with characters, empty and cut" in _refused(
            games, file, "on line 2; run the stage `judge` again"
        )


# Thoughts


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer_start": "16"}, "have answer_start as a whole number from 0, or None, got '16'"),
        ({"answer_start": True}, "have answer_start as a whole number from 0, or None, got True"),
        ({"answer_start": -1}, "have answer_start as a whole number from 0, or None, got -1"),
        ({"answer_start": 20}, "have answer_start as at most the completion's 19 characters, got 20"),
        ({"answer_start": 16, "num_thought_tokens": -1}, "have num_thought_tokens as a whole number from 0, got -1"),
        ({"answer_start": 16, "num_thought_tokens": 6}, "at most the 5 of num_completion_tokens, got 6"),
        ({"answer_start": None, "num_thought_tokens": 4}, "have all 5 num_completion_tokens as num_thought_tokens"),
        ({"num_thought_tokens": 4}, "have answer_start beside num_thought_tokens"),
        ({"answer_start": 16, "is_thought_cut": 1}, "have is_thought_cut as true or false, got 1"),
        ({"is_thought_cut": True}, "have the answer_start of a thought where is_thought_cut is true, got none"),
        ({"answer_start": 0, "is_thought_cut": True}, "have the answer_start of a thought where is_thought_cut is true, got 0"),
    ],
)
def test_thought_fields_that_cannot_be_are_refused(fields, message, tmp_path):
    write_lines(tmp_path / "completions.jsonl", [{**COMPLETION, **fields}])
    found = _refused(lambda path: completion_lines(path, "correct it"), tmp_path / "completions.jsonl", "on line 1; correct it")
    assert message in found
    # A judge reads such completions too.
    with pytest.raises(ValueError, match="in record 1; correct it"):
        read_answers(tmp_path / "completions.jsonl")


def test_all_fields_of_a_record_that_are_wrong_are_named_at_once(tmp_path):
    write_lines(tmp_path / "completions.jsonl", [{"finish_reason": 5}])
    said = "have id as str, got None, and completion as str, got None, and finish_reason as str | None, got 5"
    assert said in _refused(lambda path: completion_lines(path, "correct it"), tmp_path / "completions.jsonl", "on line 1")


@pytest.mark.parametrize(
    "fields",
    [
        {"answer_start": 16, "num_thought_tokens": 4, "is_thought_cut": True},
        {"answer_start": 19},
        {"answer_start": None, "num_thought_tokens": 5, "is_thought_cut": False},
        {"answer_start": 0, "num_thought_tokens": 1},
        {"is_thought_cut": False},
        {"answer_start": None, "num_completion_tokens": None, "num_thought_tokens": 3},
    ],
)
def test_thought_fields_as_they_are_written_pass(fields, tmp_path):
    write_lines(tmp_path / "completions.jsonl", [{**COMPLETION, **fields}])
    assert [record["id"] for _, record in completion_lines(tmp_path / "completions.jsonl", "")] == ["a"]


# Another benchmark's files


def _generation(folder, items, completions):
    write_lines(folder / "items.jsonl", items)
    write_lines(folder / "completions.jsonl", completions)
    return folder / "completions.jsonl"


@pytest.mark.parametrize(
    ("benchmark", "item", "message"),
    [
        ("gsm8k", {"id": "number_comparison-test-0", "a": 80, "b": 36, "answer": 80}, "an id of number_comparison, on line 1"),
        ("gsm8k", {"id": "math_l5-3", "question": "q", "answer": "3"}, "got 'math_l5-3', an id of math_l5"),
        ("math", {"id": "math_500-a", "question": "q", "answer": "3"}, "got 'math_500-a', an id of math_500"),
        ("gsm8k", {"id": "x", "a": 80, "b": 36, "answer": "80"}, "have question as a text that is not empty, got None"),
        ("ifeval", {"id": "x", "question": "q", "answer": "3"}, "have instructions as a list of texts, got None"),
        ("mmlu_pro", {"id": "x", "question": "q", "answer": "3"}, "have choices as a list of texts, got None"),
        ("crux", {"id": "code_output-test-0", "code": "c", "input": "1", "answer": "1"}, "an id of code_output"),
        ("code_output", {"id": "sample_0", "code": "c", "input": "1", "answer": "1"}, "hold the items that code_output makes"),
        ("number_comparison", {"id": "x", "a": 1, "b": 2, "answer": 2}, "hold the items that number_comparison makes"),
        ("number_comparison", {"id": "x", "a": 1, "b": 2, "answer": 1}, "have the larger number 2 as answer, got 1"),
        ("capitals", {"id": "x", "country": "Atlantis", "answer": "Paris"}, "have a country of the list, got 'Atlantis'"),
    ],
)
def test_items_of_another_benchmark_are_refused_and_not_scored_as_wrong(benchmark, item, message, tmp_path):
    file = _generation(tmp_path, [item], [{"id": item["id"], "completion": "80"}])
    with pytest.raises(ValueError, match=message) as caught:
        score_completions(benchmark, file)
    assert str(tmp_path / "items.jsonl") in str(caught.value) and "line 1" in str(caught.value)


def test_prompts_of_another_benchmark_are_refused_and_own_ones_score(tmp_path):
    item = {"id": "of-mine", "question": "What is\n2 + 3?", "answer": "5"}
    said = {"id": "of-mine", "completion": '{"answer": "5"}'}
    own, other = (module.messages(item)[0]["content"] for module in (gsm8k, aime_2024))
    for prompt in (f"<s>user\n{own.strip()}\n<s>assistant\n", f"system: be kind\n\nuser: {own}"):
        file = _generation(tmp_path, [item], [{**said, "prompt": prompt}])
        assert score_completions("gsm8k", file)["accuracy"] == 100
    file = _generation(tmp_path, [item], [{**said, "prompt": f"<s>user\n{other}"}])
    with pytest.raises(
        ValueError, match=r"prompts that ask as gsm8k does, .*, got '<s>user.* as prompt of 'of-mine'; name the bench"
    ):
        score_completions("gsm8k", file)


def test_completions_of_other_items_are_refused_with_their_line(tmp_path):
    item = {"id": "of-mine", "question": "What is\n2 + 3?", "answer": "5"}
    file = _generation(tmp_path, [item], [{"id": name, "completion": "5"} for name in ("of-mine", "of-yours")])
    with pytest.raises(
        ValueError, match=r"of the 1 items in items.jsonl beside it, got the id 'of-yours' on line 2; put the it"
    ) as caught:
        score_completions("gsm8k", file)
    assert str(file) in str(caught.value)


def test_the_items_that_the_project_makes_pass(tmp_path):
    for module, name in ((number_comparison, "number_comparison"), (code_output, "code_output")):
        items = module.load(None, 3)
        texts = [json.dumps({"answer": item["answer"]}) if name == "code_output" else str(item["answer"]) for item in items]
        completions = [
            {"id": item["id"], "completion": text, "finish_reason": "stop"} for item, text in zip(items, texts, strict=True)
        ]
        assert score_completions(name, _generation(tmp_path, items, completions))["accuracy"] == 100


# Items' fields

IFEVAL = {"id": "x", "question": "q", "instructions": ["length_constraints:number_words"]}
WORDS = {"relation": "at least", "num_words": 4}
CHOICES = {"id": "x", "question": "q", "choices": ["a", "b", "c", "d"], "answer": "A"}


@pytest.mark.parametrize(
    ("module", "item", "message"),
    [
        (ifeval, {**IFEVAL, "instructions": 5, "arguments": [WORDS]}, "have instructions as a list of texts, got 5"),
        (ifeval, {**IFEVAL, "arguments": "x"}, "have arguments as a list of mappings, got 'x'"),
        (ifeval, {**IFEVAL, "arguments": []}, "got 1 instructions, 0 arguments"),
        (ifeval, {**IFEVAL, "arguments": [{**WORDS, "num_words": "4"}]}, "have a whole number from 1 as the num_words of"),
        (ifeval, {**IFEVAL, "arguments": [{**WORDS, "num_words": -4}]}, "have a whole number from 1 as the num_words of"),
        (mmlu_pro, {**CHOICES, "choices": 4}, "have choices as a list of texts, got 4"),
        (mmlu_pro, {**CHOICES, "choices": ["a", 2]}, "have choices as a list of texts"),
        (mmlu_pro, {**CHOICES, "answer": "E"}, "have the letter of one of its 4 choices as answer, got 'E'"),
        (mmlu_pro, {**CHOICES, "choices": ["a"] * 11}, "have 1 to 10 choices, got 11"),
        (gpqa_diamond, {**CHOICES, "choices": ["a"] * 3}, "have 4 choices, got 3"),
        (gpqa_diamond, {**CHOICES, "answer": ["A"]}, "have answer as str"),
        (aime_2024, {"id": "x", "question": "q", "answer": "1000"}, "have a whole number from 0 to 999 as answer, got '1000'"),
        (gsm8k, {"id": "x", "question": "q", "answer": 5}, "have answer as str, got 5"),
    ],
)
def test_items_of_other_types_are_refused(module, item, message, tmp_path):
    assert message in module.item_fault(item)
    file = _generation(tmp_path, [item], [{"id": "x", "completion": "x"}])
    with pytest.raises(ValueError, match=r"items\.jsonl must .* on line 1"):
        score_completions(module.__name__.rpartition(".")[2], file)


# Lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": "a"}\n{"id": "b", "x": {"y": 1, "y": 2}}\n', "must have each key once, got 'y' twice on line 2"),
        (b'{"id": "a"}\n{"id": "b", "x": "\xe9"}\n', "in UTF-8, got the byte 0xe9, number 19 on line 2"),
        (b'{"id": "a"}\n{"x": ' + b"9" * 5000 + b"}\n", "integers of at most 4300 digits, got one of 5000 on line 2"),
    ],
)
def test_lines_that_would_lose_something_are_refused_by_every_reader(content, message, tmp_path):
    file = tmp_path / "items.jsonl"
    file.write_bytes(content)
    for read in (read_records, read_repaired, lambda path: item_lines(path, "correct it")):
        assert message in _refused(read, file)
    assert message.partition(" on line")[0] in _refused(lambda path: read_appended(path, 0), file)


def test_an_object_with_a_key_twice_and_one_in_another_encoding_are_refused(tmp_path):
    file = tmp_path / "object.json"
    file.write_text('{"a": 1, "a": 2}')
    with pytest.raises(ValueError, match=r"object\.json must have each key once, got 'a' twice; write it again"):
        read_json(file, "write it again")
    file.write_bytes(b'{\n"a": "\xff"}')
    with pytest.raises(ValueError, match="in UTF-8, got the byte 0xff, number 7 of line 2"):
        read_json(file)


def test_a_blank_line_is_a_fault_of_our_files_holds_nothing_in_others_and_lines_keep_their_numbers(tmp_path):
    file = tmp_path / "completions.jsonl"
    file.write_text(f"\n{json.dumps(COMPLETION)}\n \t\n{json.dumps({**COMPLETION, 'id': 'b'})}\n\n")
    for read in (lambda: list(completion_lines(file, "")), lambda: list(read_records(file)), lambda: read_appended(file, 0)):
        with pytest.raises(ValueError, match=r"got b.(.n)?.( on line 1)?;"):
            read()
    assert len(read_answers(file).turns) == 2
    file.write_text(f"\n{json.dumps(COMPLETION)}\n\n{{bad\n")
    with pytest.raises(ValueError, match=r"in record 2 \(line 4\); correct it"):
        read_answers(file)


def test_recorded_judgments_in_another_encoding_say_where(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_bytes(b'{"uid": "q"}\n{"uid": "\xfc"}\n')
    with pytest.raises(ValueError, match="got text that is not UTF-8: the byte 0xfc, number 10 of line 2; give another file"):
        read_judgments("arena_hard", file)


# Data files


def test_a_problem_twice_is_refused_with_both_rows(tmp_path):
    file = tmp_path / "aime.jsonl"
    for module, rows in (
        (aime_2024, [{"problem": "p", "answer": "1"}, {"problem": "q", "answer": 2}, {"Problem": " p\n", "Answer": "001"}]),
        (gsm8k, [{"question": text, "answer": "#### 1"} for text in ("p", "q", "p")]),
    ):
        write_lines(file, rows)
        with pytest.raises(ValueError, match=r"ask each question once, got 'p' at .*line 1 and again at .*line 3; remove one"):
            module.load(str(file), None)


def test_a_csv_cell_may_be_longer_than_the_modules_limit_and_a_stray_byte_has_its_place(tmp_path):
    file = tmp_path / "gpqa.csv"
    header = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,High-level domain\n"
    long = "x" * 200_000
    file.write_text(f"{header}r,{long},a,b,c,d,Physics\n \n")
    assert gpqa_diamond.load(str(file), None)[0]["question"] == long
    file.write_bytes(header.encode() + b"r,q,a,b,c,d,Physics\n" * 2000 + b"s,\xff,a,b,c,d,Physics\n")
    with pytest.raises(ValueError, match="in UTF-8, got the byte 0xff, number 3 of line 2002"):
        gpqa_diamond.load(str(file), None)


def test_ifevals_and_mmlu_pros_rows_are_checked_by_type(tmp_path):
    file = tmp_path / "rows.jsonl"
    row = {"key": 1, "prompt": "p", "instruction_id_list": IFEVAL["instructions"], "kwargs": [{**WORDS, "num_words": "many"}]}
    write_lines(file, [row])
    with pytest.raises(
        ValueError, match=r"ifeval\.source must have a whole number from 1 as the num_words of .*'many' at .*line 1"
    ):
        ifeval.load(str(file), None)
    write_lines(file, [{"question_id": 1, "question": "q", "options": [1, 2], "answer": "A", "category": "law"}])
    with pytest.raises(ValueError, match=r"mmlu_pro\.source must have options as a list of texts, got \[1, 2\] at .*line 1"):
        mmlu_pro.load(str(file), None)
