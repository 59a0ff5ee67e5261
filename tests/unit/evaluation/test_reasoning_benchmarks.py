"""MATH-500, AIME, MMLU-Pro and GPQA-Diamond, on hand-made rows in upstream's form: items, replies, files."""

import csv
import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from evaluation.answers.boxed import last_boxed
from evaluation.benchmarks import aime_2024, aime_2025, crux, gpqa_diamond, gsm8k, math_500, mmlu_pro
from evaluation.scoring.score import aggregate, answers_digest, score_completions, score_folder, score_records
from tests.unit.evaluation.report_folders import write_lines

DATA = Path(os.environ.get("BNF_TEST_DATA", "/"))

MATH_ROW = {
    "problem": "What is half of $x$?",
    "solution": r"It is $\boxed{\frac{x}{2}}$.",
    "answer": r"\frac{x}{2}",
    "subject": "Algebra",
    "level": 2,
    "unique_id": "test/algebra/1.json",
}
# HuggingFaceH4's, Maxwell-Jia's, math-ai's and opencompass's columns.
AIME_ROWS = [
    {"id": 60, "problem": "2 + 71?", "solution": "…", "answer": "073", "url": "…", "year": "2024"},
    {"ID": "2024-I-2", "Problem": "6 · 7?", "Solution": "…", "Answer": 42},
    {"problem": "5 − 5?", "answer": "0", "id": "0"},
    {"question": "990 + 9?", "answer": "999"},
]
PRO_ROW = {
    "question_id": 70,
    "question": "Which number is prime?",
    "options": ["4", "6", "8", "9", "10", "12", "14", "15", "16", "7"],
    "answer": "J",
    "answer_index": 9,
    "cot_content": "",
    "category": "math",
    "src": "made",
}
GPQA_ROW = {
    "Record ID": "rec1",
    "Question": "Which of these particles has no charge?\n",
    "Correct Answer": "the neutron\n",
    "Incorrect Answer 1": "the proton",
    "Incorrect Answer 2": 'the "electron", of course',
    "Incorrect Answer 3": "the positron,\nof 1932",
    "High-level domain": "Physics",
    "Subdomain": "Physics (general)",
}
ROWS = {
    math_500: [MATH_ROW, {**MATH_ROW, "unique_id": "test/geometry/2.json", "subject": "Geometry", "level": 5}],
    aime_2024: AIME_ROWS,
    aime_2025: AIME_ROWS,
    mmlu_pro: [PRO_ROW, {**PRO_ROW, "question_id": 71, "options": ["2", "4"], "answer": "A", "category": "law"}],
    gpqa_diamond: [GPQA_ROW, {**GPQA_ROW, "Record ID": "rec2", "Question": "And which is heaviest?"}],
}
MODULES = list(ROWS)
BOXED = [math_500, aime_2024, aime_2025]


def _name(module):
    return module.__name__.rpartition(".")[2]


def _file(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _gold(module, item):
    return f"So: \\boxed{{{item['answer']}}}." if module in BOXED else f"It follows. The answer is ({item['answer']})."


def _scored(module, items, reply):
    completions = [{"id": item["id"], "completion": reply(item), "finish_reason": "stop"} for item in items]
    return aggregate(_name(module), score_records(_name(module), items, completions), len(items))


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_gold_answers_are_all_right_empty_ones_all_missing(module, tmp_path):
    items = module.load(_file(tmp_path, ROWS[module]), None)
    assert len(items) == len(ROWS[module])
    gold = _scored(module, items, lambda item: _gold(module, item))
    assert (gold["accuracy"], gold["no_answer"], gold["n_benchmark"]) == (100, 0, module.NUM_ITEMS)
    empty = _scored(module, items, lambda item: "")
    assert (empty["accuracy"], empty["no_answer"]) == (0, 100)
    if module in BOXED:
        assert gold["metrics"]["math_verify"] == 100 and empty["metrics"]["math_verify"] == 0


def test_the_protocols_counts_and_lengths():
    assert {_name(module): (module.NUM_ITEMS, module.MAX_NEW_TOKENS) for module in MODULES} == {
        "math_500": (500, 32_768),
        "aime_2024": (30, 32_768),
        "aime_2025": (30, 32_768),
        "mmlu_pro": (12_032, 32_768),
        "gpqa_diamond": (198, 32_768),
    }


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_more_items_than_the_protocol_are_refused_from_a_file_and_fewer_from_the_hub(module, tmp_path, monkeypatch):
    import datasets

    row = ROWS[module][0]
    names = {"unique_id": str, "question_id": int, "Record ID": str}
    many = [{**row, **{key: kind(n) for key, kind in names.items() if key in row}} for n in range(module.NUM_ITEMS + 1)]
    many = [{**one, "problem": f"{n} + 71?"} if "problem" in one else one for n, one in enumerate(many)]
    with pytest.raises(ValueError, match=f"{_name(module)}.source must give at most the protocol's {module.NUM_ITEMS} items"):
        module.load(_file(tmp_path, many), 1)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: many[:-2])
    with pytest.raises(ValueError, match=f"the protocol's {module.NUM_ITEMS} items, got {module.NUM_ITEMS - 1} from"):
        module.load(None, None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: many[:-1])
    assert len(module.load(None, 3)) == 3


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_one_user_turn_asks_without_the_answer(module, tmp_path):
    item = {**module.load(_file(tmp_path, ROWS[module]), 1)[0], "answer": "gold"}
    (turn,) = module.messages(item)
    assert turn["role"] == "user" and turn["content"].startswith(item["question"]) and "gold" not in turn["content"]
    end = "\\boxed{}." if module in BOXED else '"The answer is (LETTER)", where LETTER is that of the right choice.'
    assert turn["content"].endswith(end)
    for number, choice in enumerate(item.get("choices", ())):
        assert f"\n({'ABCDEFGHIJ'[number]}) {choice}\n" in turn["content"]


def test_results_by_subject_and_level(tmp_path):
    items = math_500.load(_file(tmp_path, ROWS[math_500]), None)
    groups = _scored(math_500, items, lambda item: r"\boxed{x/2}" if item["level"] == "Level 2" else r"\boxed{2x}")["groups"]
    assert groups["level"] == {
        "Level 2": {"n": 1, "accuracy": 100, "no_answer": 0},
        "Level 5": {"n": 1, "accuracy": 0, "no_answer": 0},
    }
    assert {name: found["accuracy"] for name, found in groups["subject"].items()} == {"Algebra": 100, "Geometry": 0}
    items = mmlu_pro.load(_file(tmp_path, ROWS[mmlu_pro]), None)
    groups = _scored(mmlu_pro, items, lambda item: "The answer is (J).")["groups"]
    assert {name: found["accuracy"] for name, found in groups["subject"].items()} == {"law": 0, "math": 100}
    items = gpqa_diamond.load(_file(tmp_path, ROWS[gpqa_diamond]), None)
    assert _scored(gpqa_diamond, items, lambda item: "")["groups"]["subject"]["Physics"]["n"] == 2


@pytest.mark.parametrize(
    ("module", "change", "message"),
    [
        (math_500, {"level": 6}, "level from 1 to 5, got 6 at .*line 1; give the benchmark's upstream file$"),
        (math_500, {"answer": None}, "math_500.source must have answer as str"),
        (math_500, {"unique_id": None}, "must have unique_id as str"),
        (aime_2024, {"answer": "1000"}, "aime_2024.source must have a whole number from 0 to 999 as answer, got 1000"),
        (aime_2025, {"answer": "-1"}, "from 0 to 999 as answer, got -1"),
        (aime_2025, {"answer": "½"}, "from 0 to 999 as answer, got ½"),
        (aime_2025, {"answer": 2.5}, "have answer or Answer as text or a whole number"),
        (aime_2025, {"problem": None}, "have problem or Problem or question as str"),
        (mmlu_pro, {"answer": "K"}, "letter of one of its 10 options as answer, got K"),
        (mmlu_pro, {"answer": "AB"}, "letter of one of its 10 options as answer, got AB"),
        (mmlu_pro, {"options": ["1"] * 11}, "have 1 to 10 options, got 11"),
        (mmlu_pro, {"options": []}, "have 1 to 10 options, got 0"),
        (mmlu_pro, {"category": "anatomy"}, "mmlu_pro.source must have one of MMLU-Pro's 14 categories, got anatomy"),
        (gpqa_diamond, {"Incorrect Answer 3": None}, "gpqa_diamond.source must have Incorrect Answer 3 as str"),
        (gpqa_diamond, {"Correct Answer": " "}, "four answers that are not empty"),
    ],
)
def test_rows_that_are_wrong_are_refused(module, change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        module.load(_file(tmp_path, [{**ROWS[module][0], **change}]), None)


# Files


def test_csv_and_parquet_give_the_items_of_json_lines(tmp_path):
    rows = ROWS[gpqa_diamond]
    with (tmp_path / "gpqa_diamond.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    items = gpqa_diamond.load(_file(tmp_path, rows), None)
    assert gpqa_diamond.load(str(tmp_path / "gpqa_diamond.csv"), None) == items
    rows = ROWS[mmlu_pro]
    path = tmp_path / "test-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    items = mmlu_pro.load(_file(tmp_path, rows), None)
    assert [item["id"] for item in items] == ["mmlu_pro-70", "mmlu_pro-71"]
    assert mmlu_pro.load(str(path), None) == items and mmlu_pro.load(str(path), 1) == items[:1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"Question,Question\n1,2\n", r"the columns \['Question', 'Question'\] at .*a.csv, row 1"),
        (
            "a.csv",
            b"Question,Record ID\n\n3\n",
            "got 1 values for 2 columns at .*a.csv, row 1; give the benchmark's upstream file",
        ),
        ("a.csv", b'Question\n"unfinished\n', "Error: unexpected end of data at .*row 1"),
        ("a.csv", b"Question\n\xff\n", "UnicodeDecodeError"),
        ("a.csv", b"", "must hold items of the benchmark, got none"),
        ("a.csv", b"Question\n1\n", "must have Correct Answer as str"),
        ("a.parquet", b"no such thing", "gpqa_diamond.source must be a Parquet file, got ArrowInvalid"),
    ],
)
def test_a_faulty_file_is_named_with_its_row(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        gpqa_diamond.load(str(tmp_path / name), None)


# Replies


@pytest.mark.parametrize(
    ("reply", "outcome", "answer"),
    [
        (r"\boxed{73}", "correct", "73"),
        (r"\boxed{073}", "correct", "073"),
        (r"First \boxed{5}, no: $\boxed{\text{73}}$.", "correct", r"\text{73}"),
        (r"\boxed{73} or \boxed{74}", "wrong", "74"),
        ("The answer is 73.", "no_answer", None),
        (r"\boxed{}", "no_answer", None),
        (r"\boxed{73", "no_answer", None),
        (r"\boxed{73.5}", "wrong", "73.5"),
    ],
)
def test_the_last_box_after_the_reasoning_is_the_answer(reply, outcome, answer):
    verdict = aime_2024.score({"question": "2 + 71?", "answer": "73"}, reply, "stop")
    assert (verdict.outcome, verdict.answer) == (outcome, answer)


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        (r"<think>\boxed{74}</think>It is \boxed{73}.", "correct"),
        (r"<think>\boxed{73}</think>I don't know.", "no_answer"),
        (r"<think>\boxed{73}", "no_answer"),
    ],
)
def test_no_box_is_read_from_a_thought(completion, outcome):
    item = {"id": "a", "question": "2 + 71?", "answer": "73"}
    (record,) = score_records("aime_2024", [item], [{"id": "a", "completion": completion, "finish_reason": "stop"}])
    assert record["outcome"] == outcome


def test_gpqa_counts_upstreams_rule_beside_the_letter_stated_last(tmp_path):
    item = gpqa_diamond.load(_file(tmp_path, ROWS[gpqa_diamond]), 1)[0]
    assert item["answer"] == "C"
    for reply, outcome, upstream in (
        ("The answer is (C).", "correct", True),
        ("(A) is too small. The answer is **(C)**.", "correct", False),
        ("(C) is too small. The answer is **(A)**.", "wrong", True),
        ("The answer is C.", "correct", False),
        ("", "no_answer", False),
    ):
        verdict = gpqa_diamond.score(item, reply, "stop")
        assert (verdict.outcome, verdict.metrics) == (outcome, {"upstream_rule": upstream})


def test_letters_after_the_reasoning_count(tmp_path):
    item = mmlu_pro.load(_file(tmp_path, ROWS[mmlu_pro]), 1)[0]
    thoughts = ("<think>The answer is (A).</think>The answer is (J).", "<think>The answer is (J).</think>")
    for completion, outcome in zip(thoughts, ("correct", "no_answer"), strict=True):
        given = {"id": "a", "completion": completion, "finish_reason": "stop"}
        (record,) = score_records("mmlu_pro", [{**item, "id": "a"}], [given])
        assert record["outcome"] == outcome


# GPQA's order


def test_gpqas_choices_have_an_order_of_their_own_whatever_their_place(tmp_path):
    first, second = gpqa_diamond.load(_file(tmp_path, ROWS[gpqa_diamond]), None)
    again, other = gpqa_diamond.load(_file(tmp_path, ROWS[gpqa_diamond][::-1]), None)
    assert (again, other) == (second, first)
    # The same wherever it is computed: sha256 of "gpqa_diamond-0", question and choice, with NUL between them.
    assert first["choices"] == ["the proton", 'the "electron", of course', "the neutron", "the positron,\nof 1932"]
    assert first["answer"] == "C"
    assert second["choices"]["ABCD".index(second["answer"])] == "the neutron" and second["choices"] != first["choices"]


def test_gpqas_right_choices_are_spread_over_the_letters(tmp_path, monkeypatch):
    monkeypatch.setattr(gpqa_diamond, "NUM_ITEMS", 400)
    rows = [{**GPQA_ROW, "Record ID": str(n), "Question": f"Question {n}?"} for n in range(400)]
    letters = Counter(item["answer"] for item in gpqa_diamond.load(_file(tmp_path, rows), None))
    # 100 expected, standard deviation 8.7.
    assert set(letters) == set("ABCD") and all(65 < number < 135 for number in letters.values())


# Keys, and real problems


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_generations_do_not_hang_on_the_code_that_scores_them(module):
    from tasks.keys import code_digests

    scorers = {f"evaluation.answers.{name}" for name in ("latex", "boxed", "letters", "parsing")}
    assert not scorers & code_digests([f"{module.__name__}:load,messages"]).keys()
    used = {f"evaluation.answers.{'boxed' if module in BOXED else 'letters'}"}
    assert used <= code_digests([f"{module.__name__}:score"]).keys()


@pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")
def test_500_of_maths_problems_as_math_500s_rows(tmp_path):
    """Solutions as replies: their last box is the answer."""
    upstream = [json.loads(line) for line in (DATA / "math" / "MATH_test.math500_subset.jsonl").read_text().splitlines()]
    rows = [
        {
            "problem": row["question"],
            "solution": row["answer"],
            "answer": last_boxed(row["answer"]),
            "subject": row["type"],
            "level": int(row["level"].removeprefix("Level ")),
            "unique_id": f"test/{number}.json",
        }
        for number, row in enumerate(upstream)
    ]
    items = math_500.load(_file(tmp_path, rows), None)
    solutions = {f"math_500-{row['unique_id']}": row["solution"] for row in rows}
    assert len(items) == 500 == math_500.NUM_ITEMS
    assert Counter(math_500.score(item, solutions[item["id"]], "stop").outcome for item in items) == {"correct": 500}


def test_a_papers_answer_in_degrees_is_its_number(tmp_path):
    """II-5 of opencompass/AIME2025."""
    (item,) = aime_2025.load(_file(tmp_path, [{"question": "How many degrees?", "answer": "336^\\circ"}]), None)
    assert item["answer"] == "336" and item["question"] == "How many degrees?"


# Whether a source has the published answers


def test_a_whole_set_says_whether_its_answers_are_the_published_ones(tmp_path, monkeypatch):
    rows = [{"problem": f"Problem {n}", "answer": n} for n in (5, 40, 3)]

    def known(rows):
        items = aime_2025.load(_file(tmp_path, rows), None)
        generated = tmp_path / "generated"
        write_lines(generated / "items.jsonl", items)
        write_lines(
            generated / "completions.jsonl", [{"id": item["id"], "completion": "", "finish_reason": "stop"} for item in items]
        )
        whole = score_folder("aime_2025", generated, tmp_path / "scored", source="file", limit=None)
        assert score_completions("aime_2025", generated / "completions.jsonl").get("has_published_answers") == whole.get(
            "has_published_answers"
        )
        return whole.get("has_published_answers")

    assert known(rows) is None, "of three problems nothing is known"
    monkeypatch.setattr(aime_2025, "NUM_ITEMS", 3)
    assert known(rows) is False
    # sha256 of "3\n40\n5": in the texts' order, and so in whatever order the rows have.
    monkeypatch.setattr(aime_2025, "ANSWERS_DIGEST", hashlib.sha256(b"3\n40\n5").hexdigest()[:16])
    assert known(rows) is known(rows[::-1]) is True
    assert known([*rows[:2], {"problem": "Problem 3", "answer": 4}]) is False
    assert answers_digest([{"answer": "040"}, {"answer": "005"}, {"answer": "3"}]) == aime_2025.ANSWERS_DIGEST
    assert len(answers_digest([{"answer": "\ud800"}])) == 16


@pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")
@pytest.mark.parametrize(
    ("module", "file"), [(gsm8k, "gsm8k/test.jsonl"), (crux, "cruxeval/cruxeval.jsonl")], ids=["gsm8k", "crux"]
)
def test_the_published_answers_are_those_of_the_real_files(module, file):
    assert answers_digest(module.load(str(DATA / file), None)) == module.ANSWERS_DIGEST


def test_a_question_of_gpqa_has_one_right_answer(tmp_path, monkeypatch):
    """Else whoever chooses the other of two equal texts is wrong."""
    for wrong in ("the neutron", " the  neutron\n"):
        row = {**GPQA_ROW, "Incorrect Answer 2": wrong}
        items = gpqa_diamond.load(_file(tmp_path, [GPQA_ROW, {**row, "Record ID": "another"}]), None)
        assert len(items) == 1 and items.left_out == {"the right answer is one of the wrong ones, too": 1}
    # The hub's set has as many rows as the protocol says, that one among them.
    rows = [{**GPQA_ROW, "Record ID": str(number)} for number in range(gpqa_diamond.NUM_ITEMS - 1)]
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: [*rows, {**row, "Record ID": "another"}])
    assert len(gpqa_diamond.load(None, None)) == gpqa_diamond.NUM_ITEMS - 1
    # Which of two equal wrong ones is chosen changes nothing.
    assert gpqa_diamond.load(_file(tmp_path, [{**GPQA_ROW, "Incorrect Answer 2": "the proton"}]), None)


def test_a_row_that_lacks_fields_is_told_all_of_them(tmp_path):
    names = [name for name in GPQA_ROW if name not in ("Subdomain", "Question")]
    with pytest.raises(ValueError) as refused:
        gpqa_diamond.load(_file(tmp_path, [{"Question": "q", "answer": "a"}]), None)
    assert all(f"{name} as str" in str(refused.value) for name in names) and "Question as" not in str(refused.value)
    assert "in each row, got fields ['Question', 'answer'] at" in str(refused.value)
    said = r"must have options as list, answer as str, category as str, question as str, question_id as text or a whole number in each"
    with pytest.raises(ValueError, match=said):
        mmlu_pro.load(_file(tmp_path, [{"prompt": "q"}]), None)


def test_a_sample_that_the_project_has_not_is_said_without_a_path():
    with pytest.raises(FileNotFoundError) as refused:
        gpqa_diamond.load("sample", None)
    assert str(refused.value) == (
        "gpqa_diamond.source must be a file, or left out for the hub, where the project has no items of its own in the benchmark's "
        "format, got sample; give the benchmark's upstream file"
    )
