"""Benchmarks: items from upstream's files, prompts, keys, and lm-eval's rows."""

import gzip
import json
import os
from pathlib import Path

import pytest

from evaluation.benchmarks import crux, gsm8k, math, math_l5, mmlu_redux, mmlu_redux_2, number_comparison
from evaluation.benchmarks.samples import make as samples
from evaluation.scoring.reading import read_answered

ZEROEVAL_STYLE = [gsm8k, crux, math, math_l5, mmlu_redux, mmlu_redux_2]
CHOICES = [mmlu_redux, mmlu_redux_2]
DATA = Path(os.environ.get("BNF_TEST_DATA", "/"))
needs_data = pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")


def _name(module):
    return module.__name__.rpartition(".")[2]


def _gold(item):
    return json.dumps({"reasoning": "", "answer": item["answer"]})


def _outcomes(module, items, completion):
    """How often each outcome comes up; `completion` makes the text for an item."""
    found = [module.score(item, completion(item), "stop").outcome for item in items]
    return {outcome: found.count(outcome) for outcome in set(found)}


def _file(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


# The project's own samples


def test_the_sample_files_are_what_the_generator_makes(tmp_path):
    samples.write_samples(tmp_path)
    for name in samples.make_samples():
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (samples.SAMPLES / f"{name}.jsonl").read_bytes(), (
            "run python -m evaluation.benchmarks.samples.make"
        )


@pytest.mark.parametrize("module", ZEROEVAL_STYLE, ids=_name)
def test_the_sample_loads_its_gold_answers_are_right_and_it_is_named_a_sample(module):
    items = module.load("sample", None)
    assert len(items) == 40
    assert all("sample" in item["id"] for item in items)
    assert _outcomes(module, items, _gold) == {"correct": 40}
    assert _outcomes(module, items, lambda item: "") == {"no_answer": 40}
    assert module.load("sample", 3) == items[:3]


# Upstream's data


@needs_data
def test_gsm8k_gold_answers_are_all_right():
    items = gsm8k.load(str(DATA / "gsm8k" / "test.jsonl"), None)
    assert len(items) == gsm8k.NUM_ITEMS
    assert _outcomes(gsm8k, items, _gold) == {"correct": 1319}
    assert _outcomes(gsm8k, items, lambda item: "") == {"no_answer": 1319}


@needs_data
def test_crux_gold_and_empty_answers():
    items = crux.load(str(DATA / "cruxeval" / "cruxeval.jsonl"), None)
    assert _outcomes(crux, items, _gold) == {"correct": crux.NUM_ITEMS}
    assert all(crux.score(item, _gold(item), "stop").metrics["literal_match"] for item in items)
    assert _outcomes(crux, items, lambda item: "") == {"no_answer": 800}
    # The gold answer strips to nothing: '' and the like.
    assert _outcomes(crux, items, lambda item: '{"answer": ""}') == {"correct": 17, "wrong": 783}


@needs_data
def test_math_l5_are_the_recorded_problems():
    """The rule picks, of MATH's 500 rows here, just those that ZeroEval has among its 721, with its gold answers."""
    results = DATA / "recorded_examples" / "zeroeval" / "math-l5" / "Qwen2-7B-Instruct.json.gz"
    recorded = {row["problem"]: row["answer"] for row in json.loads(gzip.decompress(results.read_bytes()))}
    assert len(recorded) == math_l5.NUM_ITEMS and all(map(math_l5.is_whole_number, recorded.values()))
    path = DATA / "math" / "MATH_test.math500_subset.jsonl"
    items = math_l5.load(str(path), None)
    problems = {json.loads(line)["question"] for line in path.read_text().splitlines()}
    assert {item["question"]: item["answer"] for item in items} == {p: recorded[p] for p in problems & recorded.keys()}
    assert len(items) == 74
    assert items.left_out == {"another level": 366, "the answer is no whole number": 60}


@needs_data
def test_mmlu_redux_2_leaves_faulty_questions_out_and_counts_them():
    path = str(DATA / "mmlu_redux" / "mmlu_redux_2.0.57subjects_first60rows.jsonl")
    items = mmlu_redux_2.load(path, None)
    assert len(items) == 3192 and len({item["subject"] for item in items}) == 57
    assert items.left_out["wrong_groundtruth without a corrected letter"] == 38
    assert sum(items.left_out.values()) == 3420 - 3192
    assert _outcomes(mmlu_redux_2, items, _gold) == {"correct": 3192}
    # By another name it would be taken for another set, and its first rows too.
    for limit in (None, 10):
        with pytest.raises(ValueError, match=r"first MMLU-Redux's 30 subjects .*, got abstract_algebra at"):
            mmlu_redux.load(path, limit)


@needs_data
def test_math_reads_every_level_and_its_gold_answers_are_right():
    items = math.load(str(DATA / "math" / "MATH_test.math500_subset.jsonl"), None)
    assert len(items) == 500 and not items.left_out
    levels = [item["level"] for item in items]
    assert [levels.count(f"Level {level}") for level in range(1, 6)] == [43, 90, 105, 128, 134]
    assert len({item["subject"] for item in items}) == 7
    assert _outcomes(math, items, _gold) == {"correct": 500}
    # What a model that doesn't know JSON's escapes writes.
    raw = lambda item: '{"reasoning": "", "answer": "' + item["answer"] + '"}'  # noqa: E731
    assert _outcomes(math, items, raw) == {"correct": 500}


# Loading


def test_math_l5_takes_level_5_with_a_whole_number_as_the_last_boxed_answer(tmp_path):
    def row(solution, level="Level 5"):
        return {"problem": f"of {solution}", "level": level, "type": "Algebra", "solution": solution}

    solutions = [
        (r"\boxed{3}", "3"),
        (r"\boxed{3} and \boxed{-4}", "-4"),
        (r"\boxed{11_2}", "11_2"),  # int() reads the base's underscore
        (r"$\boxed 5$.", "5"),
        (r"\boxed{3} and \boxed{\frac{1}{2}}", None),
        (r"\boxed{1,000}", None),
        (r"\boxed{2.0}", None),
        (r"\boxed{7", None),
        ("6", "6"),  # files that hold the final answer alone
        ("so it is 6", None),
    ]
    path = _file(tmp_path, row(r"\boxed{1}", "Level 4"), *(row(solution) for solution, _ in solutions))
    items = math_l5.load(path, None)
    assert [item["answer"] for item in items] == [answer for _, answer in solutions if answer is not None]
    assert items[0]["id"] == "math_l5-1"  # the row's number, whatever was passed over


def test_mmlu_redux_reads_both_formats(tmp_path):
    choices = ["w", "x", "y", "z"]
    annotated = [
        {"error_type": "ok", "groundtruth_answer": 2},
        {"error_type": "ok", "answer": 0, "correct_answer": None},
        {"error_type": "wrong_groundtruth", "groundtruth_answer": 2, "correct_answer": "D"},
        {"error_type": "wrong_groundtruth", "groundtruth_answer": 2, "correct_answer": "none of them"},
        {"error_type": "no_correct_answer", "groundtruth_answer": 2},
    ]
    rows = [{"question": "q", "choices": choices, **row} for row in annotated]
    zero_eval = {"id": "mmlu-redux-anatomy-#3", "question": "q", "choices": choices, "correct_answer": "x"}
    items = mmlu_redux.load(_file(tmp_path, *rows, zero_eval), None)
    assert [item["answer"] for item in items] == ["C", "A", "D", "B"]
    assert [item["id"] for item in items] == ["mmlu_redux-0", "mmlu_redux-1", "mmlu_redux-2", "mmlu-redux-anatomy-#3"]


def test_mmlu_redux_has_the_first_sets_subjects(tmp_path):
    row = {"question": "q", "choices": ["w", "x"], "correct_answer": "x"}
    items = mmlu_redux.load(_file(tmp_path, {**row, "config": "virology"}, {**row, "subject": "anatomy"}, row), None)
    assert [item["subject"] for item in items] == ["virology", "anatomy", None]
    with pytest.raises(ValueError, match=r"got college_biology at .*line 2"):
        mmlu_redux.load(_file(tmp_path, row, {**row, "subject": "college_biology"}), 1)


def test_a_limit_is_in_items_and_reading_ends_with_it_where_nobody_says_how_many_there_are(tmp_path):
    good = [{"question": f"q{n}", "answer": "#### 1"} for n in range(3)]
    assert [item["id"] for item in gsm8k.load(_file(tmp_path, *good), 2)] == ["gsm8k-0", "gsm8k-1"]
    row = {"question": "q", "choices": ["w"], "error_type": "ok", "answer": 0}
    assert len(mmlu_redux_2.load(_file(tmp_path, row, row, "no JSON"), 2)) == 2


@pytest.mark.parametrize(
    ("module", "row", "message"),
    [
        (gsm8k, "{", "gsm8k.source must hold a JSON object on each line.*line 1.*sample"),
        (gsm8k, '{"question": "a", "question": "b", "answer": "#### 1"}', "each key once, got 'question' twice at .*line 1"),
        (gsm8k, "[]", "got list"),
        (gsm8k, {"question": "q"}, "gsm8k.source must have answer as str.*question"),
        (gsm8k, {"question": "q", "answer": 3}, "got {'answer': 3}"),
        (gsm8k, {"question": "q", "answer": "3"}, "#### and a number"),
        (crux, {"code": "c", "input": "i", "id": "a"}, "crux.source must have output"),
        (math_l5, {"problem": "p", "solution": "s"}, "math_l5.source must have level"),
        (math_l5, {"problem": "p", "level": "Level 1", "solution": "1"}, "must hold items of the benchmark, got none"),
        (mmlu_redux, {"question": "q", "choices": ["a"], "correct_answer": "b"}, "right answer among its choices, got b"),
        (mmlu_redux, {"question": "q", "choices": ["a"], "error_type": "ok", "answer": 1}, "among its 1 choices"),
        (mmlu_redux, {"question": "q", "choices": ["a"], "error_type": "ok", "answer": -1}, "number of a choice, got -1"),
    ],
)
def test_a_file_of_another_schema_is_named_with_its_line(tmp_path, module, row, message):
    with pytest.raises(ValueError, match=message) as caught:
        module.load(_file(tmp_path, row), None)
    assert "rows.jsonl" in str(caught.value)


def test_a_file_with_more_items_than_the_protocol_is_another_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(gsm8k, "NUM_ITEMS", 2)
    rows = [{"question": f"q{n}", "answer": "#### 1"} for n in range(3)]
    for limit in (None, 1, 3):
        with pytest.raises(ValueError, match="at most the protocol's 2 items, got 3"):
            gsm8k.load(_file(tmp_path, *rows), limit)
    assert len(gsm8k.load(_file(tmp_path, *rows[:2]), 1)) == 1


def test_math_takes_every_level_and_the_last_box(tmp_path):
    rows = [
        {
            "problem": "p",
            "level": "Level 1",
            "type": "Algebra",
            "solution": r"first $\boxed{2}$, then $\boxed{\frac{1}{\sqrt{2}}}$",
        },
        {"problem": "p", "level": "Level 5", "type": "Geometry", "solution": r"$\fbox{7}$"},
        {"problem": "p", "level": "Level 3", "type": "Geometry", "solution": r"$\boxed{7"},
        {"question": "p", "level": "Level 2", "subject": "Algebra", "answer": "3x"},
    ]
    items = math.load(_file(tmp_path, *rows), None)
    assert [item["answer"] for item in items] == [r"\frac{1}{\sqrt{2}}", "7", "3x"]
    assert [(item["level"], item["subject"]) for item in items][-1] == ("Level 2", "Algebra")
    assert items.left_out == {"the boxed answer never ends": 1}


def test_an_id_twice_is_refused(tmp_path):
    row = {"code": "c", "input": "i", "output": "o", "id": "a"}
    with pytest.raises(ValueError, match="unique ids, got 'a' twice"):
        crux.load(_file(tmp_path, row, row), None)


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.csv"])
def test_a_gzipped_file_is_called_so(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b'{"question": "q", "answer": "#### 1"}\n'))
    with pytest.raises(ValueError, match=rf"gsm8k.source must be text in UTF-8, got a gzipped file, \S+{name}; unpack it"):
        gsm8k.load(str(tmp_path / name), None)


@pytest.mark.parametrize(
    "content, got", [(gzip.compress(b"[]", mtime=0), "a gzipped file"), (b'\n[{"output": ["1"]}]', "a list")]
)
def test_a_result_file_of_zeroeval_without_its_format_is_called_so(tmp_path, content, got):
    (tmp_path / "completions.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"must be a completions.jsonl .*, got {got}; give `--format zeroeval`"):
        read_answered(tmp_path / "completions.jsonl", "gsm8k")


@pytest.mark.parametrize("module", ZEROEVAL_STYLE, ids=_name)
def test_a_missing_file_is_named(module):
    with pytest.raises(FileNotFoundError, match=rf"{_name(module)}.source must be an existing file, got /not/there"):
        module.load("/not/there", None)


def test_the_hub_must_give_the_protocols_count_whatever_the_limit(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return [{"question": f"q{n}", "answer": "#### 1"} for n in range(5)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for limit in (None, 3):
        with pytest.raises(ValueError, match="protocol's 1319 items, got 5 from openai/gsm8k"):
            gsm8k.load(None, limit)
    assert asked == 2 * [(("openai/gsm8k", "main"), {"split": "test"})]
    monkeypatch.setattr(gsm8k, "NUM_ITEMS", 5)
    assert len(gsm8k.load(None, 3)) == 3


def test_a_hub_that_cannot_be_reached_says_so(monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("offline\ndetails")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match=r"crux.source must be reachable, got .*ConnectionError: offline\)"):
        crux.load(None, None)


# Prompts


@pytest.mark.parametrize("module", ZEROEVAL_STYLE, ids=_name)
def test_a_prompt_is_one_user_turn_with_zeroevals_sections(module):
    (turn,) = module.messages(module.load("sample", 1)[0])
    assert turn["role"] == "user"
    choices = ["## Choices:"] if module in CHOICES else []
    sections = ["## Question:", *choices, "## Instruction", "```json\n{", '"reasoning": "___"', '"answer": "___"']
    positions = [turn["content"].index(section) for section in sections]
    assert positions == sorted(positions)
    assert turn["content"].endswith("}\n```")
    assert ("- (B) " in turn["content"]) == (module in CHOICES)


def test_the_gold_answer_is_not_in_the_prompt():
    text = crux.messages({"code": "def f(x):\n    return 5", "input": "1", "answer": "gold 5"})[0]["content"]
    assert "gold" not in text and "assert f(1) == ??" in text and "    return 5" in text


# Keys


@pytest.mark.parametrize("module", [*ZEROEVAL_STYLE, number_comparison], ids=_name)
def test_generations_do_not_hang_on_the_code_that_scores_them(module):
    from tasks.keys import code_digests

    generation = code_digests([f"{module.__name__}:load,messages"])
    scorers = (
        "parsing",
        "arithmetic",
        "benchmarks._numbers",
        "latex",
        "latex_form",
        "bounded",
        "math_verification",
        "lm_eval_replay",
    )
    assert not {f"evaluation.{name}" for name in scorers} & generation.keys()
    if module is not number_comparison:
        assert {"evaluation.answers.parsing", "evaluation.answers.arithmetic"} <= code_digests(
            [f"{module.__name__}:score"]
        ).keys()


# lm-eval's documents


def test_an_item_is_a_row_of_the_data_set_that_lm_evals_tasks_read():
    assert gsm8k.lm_eval_document({"question": "q", "answer": "1,000"}) == {"question": "q", "answer": "#### 1,000"}
    item = {"question": "q", "answer": "3", "subject": "Algebra"}
    assert math_l5.lm_eval_document(item)["solution"] == r"\boxed{3}"
    row = {"question": "q", "choices": ["w", "x"], "answer": "B"}
    for module in CHOICES:
        # Its prompt names four choices.
        assert module.lm_eval_document(row) == {"question": "q", "choices": ["w", "x", "", ""], "answer": 1}
        # A recorded file has the letter alone.
        assert module.lm_eval_document({"answer": "E"}) == {"question": "", "choices": [""] * 4, "answer": 4}


def test_a_benchmark_without_a_sample_is_not_told_to_take_it(tmp_path):
    from evaluation.benchmarks._rows import Hub, load_items

    for name, ending in (("gsm8k", "upstream file, or `sample`"), ("nothing_of_ours", "upstream file")):
        with pytest.raises(FileNotFoundError) as refused:
            load_items(name, str(tmp_path / "no.jsonl"), None, Hub("", []), None, dict)
        assert str(refused.value).endswith(ending)
