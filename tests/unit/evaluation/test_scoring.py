"""Scores of stored completions: shapes, denominators, published figures, and files that are ill-formed."""

import gzip
import json
import math
import os
from pathlib import Path

import pytest

from evaluation.benchmarks import crux, gsm8k, math_l5
from evaluation.scoring.score import aggregate, content_digest, items_digest, score_completions, score_folder, score_records
from evaluation.scoring.zeroeval import load_zeroeval_results

DATA = Path(os.environ.get("BNF_TEST_DATA", "/")) / "recorded_examples" / "zeroeval"
needs_data = pytest.mark.skipif("BNF_TEST_DATA" not in os.environ, reason="BNF_TEST_DATA names no folder of upstream data")

ITEMS = [{"id": f"i{n}", "answer": str(n)} for n in range(4)]


def _completion(number, answer, finish_reason="stop", num_tokens=10):
    return {
        "id": f"i{number}",
        "completion": json.dumps({"answer": answer}) if answer is not None else "no idea",
        "finish_reason": finish_reason,
        "num_completion_tokens": num_tokens,
    }


def _lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _zeroeval_row(number=0, **changes):
    return {"id": f"gsm8k-main-test-#{number}", "output": ['{"answer": "3"}'], "answer": "# 3", "dataset": "gsm", **changes}


# Aggregates


def test_rates_divide_by_what_their_names_say():
    completions = [_completion(0, "0"), _completion(1, "7", num_tokens=20), _completion(2, None, "length", 30)]
    records = score_records("gsm8k", ITEMS, completions)
    assert [record["outcome"] for record in records] == ["correct", "wrong", "no_answer"]
    result = aggregate("gsm8k", records, n_expected=4)
    assert (result["n"], result["n_expected"], result["missing"], result["partial"]) == (3, 4, 1, True)
    assert result["n_benchmark"] == 1319
    assert (result["accuracy"], result["accuracy_of_parsed"], result["no_answer"]) == (25, 50, 25)
    assert result["accuracy_of_present"] == result["truncated"] == pytest.approx(100 / 3)
    assert result["mean_completion_tokens"] == 20
    assert result["rules"] == {"json": 2, "none": 1}
    # One right in four: Wilson, and the sample's standard error √(p (1 − p) / (n − 1)).
    assert result["ci"] == pytest.approx([4.5587, 69.9358], abs=1e-3)
    assert result["stderr"] == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 3))


def test_rates_show_as_upstreams_where_rounding_is_near():
    # 439 of 800 in floating point: 439 / 800 * 100 is below 54.875, 100 * 439 / 800 is not.
    items = [{"id": f"i{n}", "answer": "0"} for n in range(800)]
    completions = [_completion(n, "0" if n < 439 else None) for n in range(800)]
    result = aggregate("gsm8k", score_records("gsm8k", items, completions), n_expected=800)
    none = aggregate("gsm8k", score_records("gsm8k", items, [_completion(n, None) for n in range(439)]), n_expected=800)
    assert f"{result['accuracy']:.2f}" == f"{result['accuracy_of_present']:.2f}" == f"{none['no_answer']:.2f}" == "54.87"


def test_a_complete_set_is_not_partial_and_no_completion_at_all_is_a_result_too():
    records = score_records("gsm8k", ITEMS, [_completion(n, str(n)) for n in range(4)])
    full = aggregate("gsm8k", records, n_expected=4)
    assert (full["partial"], full["accuracy"], full["accuracy_of_present"], full["ci"][1]) == (False, 100, 100, 100)
    empty = aggregate("gsm8k", [], n_expected=4)
    assert (empty["n"], empty["missing"], empty["accuracy"], empty["accuracy_of_present"]) == (0, 4, 0, None)
    json.dumps([full, empty, aggregate("gsm8k", [], n_expected=1)], allow_nan=False)


def test_second_metrics_stand_beside_the_accuracy():
    completions = [_completion(0, "0.0"), _completion(1, "1")]
    result = aggregate("crux", score_records("crux", ITEMS, completions), n_expected=2)
    assert result["accuracy"] == 50 and result["metrics"] == {"literal_match": 50}


def test_a_generation_that_failed_is_an_error_and_neither_right_nor_without_an_answer():
    records = score_records("gsm8k", ITEMS, [_completion(0, "0", "error: 503")])
    assert records[0]["outcome"] == "error" and records[0]["rule"] == "generation_failed"
    result = aggregate("gsm8k", records, n_expected=1)
    assert (result["accuracy"], result["no_answer"], result["error"]) == (0, 0, 100)


def test_more_completions_than_items_were_expected_is_an_error():
    with pytest.raises(ValueError, match="at most 1 items of gsm8k, got 2"):
        aggregate("gsm8k", score_records("gsm8k", ITEMS, [_completion(0, "0"), _completion(1, "1")]), n_expected=1)


def test_judged_benchmarks_have_no_score():
    with pytest.raises(ValueError, match="arena_hard, which a judge scores"):
        score_records("arena_hard", [], [])


def test_progress_ends_with_everything():
    seen = []
    score_records("gsm8k", ITEMS, [_completion(0, "0")], lambda done, total, note: seen.append((done, total)))
    assert seen[-1] == (1, 1)


# Files of our own


def test_a_folder_is_scored_whole_and_keeps_the_raw_text(tmp_path):
    hostile = {"id": "i1", "completion": '{"answer": "\\ud800"}\x00', "finish_reason": "stop", "num_completion_tokens": 3}
    _lines(tmp_path / "items.jsonl", ITEMS)
    _lines(tmp_path / "completions.jsonl", [_completion(0, "0"), hostile])
    summary = score_folder("gsm8k", tmp_path, tmp_path / "out", source="sample", limit=4)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["n"], summary["n_expected"], summary["source"], summary["limit"]) == (2, 4, "sample", 4)
    records = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == ["i0", "i1"]
    assert records[1]["completion"] == hostile["completion"] and records[1]["answer"] == "\ud800"
    assert records[0] == {
        "id": "i0",
        "outcome": "correct",
        "answer": "0",
        "rule": "json",
        "metrics": {},
        "finish_reason": "stop",
        "num_completion_tokens": 10,
        "groups": {},
        "cluster": "i0",
        "content": content_digest(ITEMS[0]),
        "completion": '{"answer": "0"}',
        "scorer": records[0]["scorer"],
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scores.jsonl", "summary.json"]


def test_the_summary_names_the_data_and_what_was_left_out(tmp_path):
    _lines(tmp_path / "items.jsonl", ITEMS)
    _lines(tmp_path / "completions.jsonl", [_completion(0, "0")])
    (tmp_path / "left_out.json").write_text('{"another level": 7}')
    first = score_folder("gsm8k", tmp_path, tmp_path / "out", source="file", limit=None)
    assert first["left_out"] == {"another level": 7}
    assert first["items_digest"] == items_digest(ITEMS) != items_digest(ITEMS[::-1])
    _lines(tmp_path / "items.jsonl", [{**item, "answer": "1"} for item in ITEMS])
    assert score_folder("gsm8k", tmp_path, tmp_path / "out", source="file", limit=None)["items_digest"] != first["items_digest"]


def test_items_that_ask_the_same_question_are_one_cluster():
    items = [{"id": "a", "question": "q", "choices": ["x", "y"], "answer": "A", "subject": "s"}]
    items += [{**items[0], "id": "b", "subject": "t"}, {**items[0], "id": "c", "choices": ["y", "x"]}]
    completions = [{"id": item["id"], "completion": '{"answer": "A"}'} for item in items]
    a, b, c = score_records("mmlu_redux", items, completions)
    assert a["cluster"] == b["cluster"] != c["cluster"]
    assert a["groups"] == {"subject": "s"} and b["groups"] == {"subject": "t"}


def test_an_items_content_is_what_it_asks_and_its_gold_answer():
    item = {"id": "a", "question": "q", "choices": ["x", "y"], "answer": "A", "subject": "s"}
    assert content_digest(item) == content_digest({**item, "id": "b", "subject": None})
    changed = [{**item, "question": "p"}, {**item, "answer": "B"}, {**item, "choices": ["y", "x"]}]
    assert len({content_digest(other) for other in [item, *changed]}) == 4


def test_results_by_group_divide_by_the_groups_items():
    levels = ["Level 1", "Level 1", "Level 1", "Level 5"]
    items = [{**item, "level": level, "subject": None} for item, level in zip(ITEMS, levels, strict=True)]
    completions = [_completion(0, "0"), _completion(1, "1.0"), _completion(2, None), _completion(3, "7")]
    groups = aggregate("math", score_records("math", items, completions), n_expected=4)["groups"]
    assert groups["level"]["Level 1"] == {"n": 3, "accuracy": pytest.approx(200 / 3), "no_answer": pytest.approx(100 / 3)}
    assert groups["level"]["Level 5"] == {"n": 1, "accuracy": 0, "no_answer": 0}
    assert groups["subject"] == {}


def test_where_nobody_says_how_many_items_there_are_the_file_does(tmp_path):
    _lines(tmp_path / "items.jsonl", [{**ITEMS[0], "answer": "A"}, {**ITEMS[1], "answer": "B"}])
    _lines(tmp_path / "completions.jsonl", [{"id": "i0", "completion": '{"answer": "A"}'}])
    result = score_completions("mmlu_redux_2", tmp_path / "completions.jsonl")
    assert (result["n"], result["n_expected"], result["n_benchmark"], result["accuracy"]) == (1, 2, None, 50)


def test_a_file_counts_over_the_items_beside_it_as_the_score_stage_does(tmp_path):
    _lines(tmp_path / "items.jsonl", ITEMS)
    _lines(tmp_path / "completions.jsonl", [{"id": "i2", "completion": '{"answer": "2"}'}])
    result = score_completions("gsm8k", tmp_path / "completions.jsonl")
    assert (result["n"], result["n_expected"], result["missing"], result["partial"]) == (1, 4, 3, True)
    assert (result["n_benchmark"], result["accuracy"], result["accuracy_of_present"]) == (1319, 25, 100)
    assert result["truncated"] is None and result["mean_completion_tokens"] is None
    stage = score_folder("gsm8k", tmp_path, tmp_path / "out", source="file", limit=None)
    assert all(result[key] == stage[key] for key in result)


def test_a_file_of_every_item_asked_for_is_partial_where_the_benchmark_has_more(tmp_path):
    _lines(tmp_path / "items.jsonl", ITEMS)
    _lines(tmp_path / "completions.jsonl", [{"id": item["id"], "completion": '{"answer": "2"}'} for item in ITEMS])
    result = score_completions("gsm8k", tmp_path / "completions.jsonl")
    assert (result["n"], result["n_expected"], result["n_benchmark"], result["partial"]) == (4, 4, 1319, True)
    assert score_folder("gsm8k", tmp_path, tmp_path / "out", source="file", limit=4)["partial"] is False


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "JSON object per line, got .* on line 2"),
        (b"\xff\xfe", "JSON object per line"),
        (b"[" * 100_000, "JSON object per line"),
        (b"[1]", "got list on line 2"),
        (b'{"completion": "x"}', "id as str, got None on line 2"),
        (b'{"id": "i1"}', "completion as str, got None on line 2"),
        (b'{"id": "i1", "completion": 5}', "completion as str, got 5"),
        (b'{"id": "i1", "completion": "x", "finish_reason": 5}', "finish_reason as str | None, got 5"),
        (b'{"id": "i0", "completion": "x"}', "id once, got 'i0' of line 1 again on line 2"),
        (b'{"id": "other", "completion": "x"}', "id 'other'"),
    ],
)
def test_an_ill_formed_line_is_named(tmp_path, line, message):
    _lines(tmp_path / "items.jsonl", ITEMS)
    (tmp_path / "completions.jsonl").write_bytes(json.dumps(_completion(0, "0")).encode() + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=message) as caught:
        score_completions("gsm8k", tmp_path / "completions.jsonl")
    assert len(str(caught.value)) < 600


def test_completions_without_their_items_say_what_is_missing(tmp_path):
    _lines(tmp_path / "completions.jsonl", [_completion(0, "0")])
    with pytest.raises(FileNotFoundError, match=r"items.jsonl must hold the items"):
        score_completions("gsm8k", tmp_path / "completions.jsonl")


# ZeroEval's files


@pytest.mark.integration
@needs_data
@pytest.mark.parametrize(
    ("benchmark", "file", "n", "accuracy", "no_answer"),
    [
        ("gsm8k", "gsm/Qwen2-7B-Instruct.json.gz", 1319, "80.06", "0.00"),
        ("crux", "crux/Qwen2-7B-Instruct.json.gz", 800, "37.88", "0.12"),
        ("math_l5", "math-l5/Qwen2-7B-Instruct.json.gz", 721, "23.86", "3.61"),
    ],
)
def test_published_figures_are_reproduced(benchmark, file, n, accuracy, no_answer):
    result = score_completions(benchmark, DATA / file, format="zeroeval")
    assert (f"{result['accuracy']:.2f}", f"{result['no_answer']:.2f}") == (accuracy, no_answer)
    assert (result["n"], result["partial"], result["model"]) == (n, False, "Qwen2-7B-Instruct")


@needs_data
def test_a_file_with_51_of_2778_items_is_partial():
    file = DATA / "mmlu-redux" / "Meta-Llama-3.1-405B-Instruct@hyperbolic.partial51.json"
    result = score_completions("mmlu_redux", file, format="zeroeval")
    assert (result["n"], result["n_expected"], result["missing"], result["partial"]) == (51, 2778, 2727, True)
    assert result["accuracy_of_present"] == pytest.approx(100 * 40 / 51)
    assert result["accuracy"] == pytest.approx(100 * 40 / 2778)


@pytest.mark.integration
@needs_data
def test_each_detail_of_the_protocol_is_felt(monkeypatch):
    """The figures hang on every rule: without the fallback, or with newlines kept, they are others."""
    file = DATA / "math-l5" / "Qwen2-7B-Instruct.json.gz"
    published = score_completions("math_l5", file, format="zeroeval")
    assert published["rules"] == {"json": 425, "quoted_value": 270, "none": 26}
    monkeypatch.setattr("evaluation.answers.parsing._FALLBACKS", ())
    strict = score_completions("math_l5", file, format="zeroeval")
    assert strict["no_answer"] == pytest.approx(100 * (270 + 26) / 721) and strict["accuracy"] < published["accuracy"] - 5


def test_the_boxed_rule_is_for_llama_3_1_alone(tmp_path):
    text = r"The answer is \boxed{3}"
    for name, generator, right in [("Meta-Llama-3.1-8B", "x", 1), ("other", "a/Llama-3.1-8B", 1), ("Qwen2", "Qwen/Qwen2", 0)]:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([_zeroeval_row(output=[text], generator=generator)]))
        result = score_completions("gsm8k", path, format="zeroeval")
        assert result["accuracy_of_present"] == 100 * right
        assert result["rules"] == ({"boxed": 1} if right else {"none": 1})


def test_gold_answers_are_read_as_upstream_writes_them(tmp_path):
    path = tmp_path / "model.json"
    choices = {"choices": ["x", "y", "y"], "correct_answer": "y"}
    cases = [
        ("gsm8k", {"answer": "# 1,000"}, "1,000"),
        ("math_l5", {"answer": 7}, "7"),
        ("crux", {"answer": "'#a '"}, "'#a '"),
        ("crux", {"answer": [1, 2]}, "[1, 2]"),
        ("crux", {"answer": None}, "None"),
        ("mmlu_redux", choices, "B"),
    ]
    for benchmark, fields, gold in cases:
        path.write_text(json.dumps([_zeroeval_row(**{"dataset": "", **fields})]))
        assert load_zeroeval_results(path, benchmark).items[0]["answer"] == gold


def test_plain_and_gzipped_files_are_one_whatever_they_are_called(tmp_path):
    data = json.dumps([_zeroeval_row(), _zeroeval_row(1)]).encode()
    (tmp_path / "plain.json").write_bytes(data)
    (tmp_path / "packed.json").write_bytes(gzip.compress(data))
    plain, packed = (load_zeroeval_results(tmp_path / f"{name}.json", "gsm8k") for name in ("plain", "packed"))
    assert plain.items == packed.items and plain.completions == packed.completions
    assert (plain.model, packed.model) == ("plain", "packed")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be JSON.*line 1"),
        (b'[{"id": 1},\n{"id": }]', "must be JSON.*on line 2"),
        (b"\xff\xfe\x00", "must be JSON"),
        (gzip.compress(b"[" + b"1," * 1000, mtime=0)[:-20], "must be JSON, plain or gzipped, got EOFError"),
        (b"\x1f\x8bnot gzip", "must be JSON, plain or gzipped"),
        (b"[" * 200_000, "must be JSON, plain or gzipped, got RecursionError"),
        (b"[]", r"list of records, got \[\]"),
        (b'{"id": 1}', "list of records"),
        (b"[1]", "list of records, got int in record 0"),
        (json.dumps([_zeroeval_row(dataset="crux")]), "records of gsm8k, got the dataset 'crux' in record 0"),
        (json.dumps([_zeroeval_row(), _zeroeval_row(1, dataset="zebra-grid")]), "got the dataset 'zebra-grid' in record 1"),
        (json.dumps([_zeroeval_row(dataset="GSM")]), "got the dataset 'GSM'"),
        (json.dumps([_zeroeval_row(dataset=None, answer="[(4, 1)]")]), r"number as answer, .*got '\[\(4, 1\)\]'"),
        (json.dumps([_zeroeval_row(), _zeroeval_row(1, output=[])]), "output as a list.*in record 1"),
        (json.dumps([_zeroeval_row(output=[None])]), "output as a list"),
        (json.dumps([_zeroeval_row(output="text")]), "output as a list"),
        (json.dumps([_zeroeval_row(answer=None)]), "have an answer"),
        (json.dumps([_zeroeval_row(id=[1])]), "whole number as id, got .1. in record 0"),
        (json.dumps([_zeroeval_row(id=True)]), "whole number as id, got True"),
        (json.dumps([_zeroeval_row(id="1"), _zeroeval_row(id=None)]), "each id once, got '1' of record 0 again in record 1"),
        (json.dumps([_zeroeval_row(), _zeroeval_row()]), "each id once.*record 0 again in record 1"),
    ],
)
def test_an_ill_formed_result_file_is_named(tmp_path, content, message):
    path = tmp_path / "model.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        score_completions("gsm8k", path, format="zeroeval")
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600


def test_a_record_is_called_by_its_id_its_session_id_or_its_number(tmp_path):
    path = tmp_path / "model.json"
    rows = [_zeroeval_row(id=7), _zeroeval_row(id=None, session_id="s"), _zeroeval_row(id=None)]
    rows.append({key: value for key, value in _zeroeval_row().items() if key != "id"})
    path.write_text(json.dumps(rows))
    assert [item["id"] for item in load_zeroeval_results(path, "gsm8k").items] == ["7", "s", "2", "3"]


@needs_data
def test_recorded_items_are_the_benchmarks_own():
    for benchmark, file, source in [
        (gsm8k, "gsm/Qwen2-7B-Instruct.json.gz", "gsm8k/test.jsonl"),
        (crux, "crux/Qwen2-7B-Instruct.json.gz", "cruxeval/cruxeval.jsonl"),
        (math_l5, "math-l5/Qwen2-7B-Instruct.json.gz", "math/MATH_test.math500_subset.jsonl"),
    ]:
        recorded = load_zeroeval_results(DATA / file, benchmark.__name__.rpartition(".")[2]).items
        loaded = benchmark.load(str(DATA.parent.parent / source), None)
        assert {content_digest(item) for item in loaded} <= {content_digest(item) for item in recorded}
        assert (items_digest(recorded) == items_digest(loaded)) == (len(recorded) == len(loaded))


@needs_data
def test_recorded_mmlu_has_its_subjects():
    file = DATA / "mmlu-redux" / "Meta-Llama-3.1-405B-Instruct@hyperbolic.partial51.json"
    result = score_completions("mmlu_redux", file, format="zeroeval")
    assert {subject: group["n"] for subject, group in result["groups"]["subject"].items()} == {"anatomy": 51}


def test_of_several_outputs_of_zeroeval_none_is_left_out_in_silence(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps([_zeroeval_row(output=['{"answer": "3"}', '{"answer": "4"}'])]))
    with pytest.raises(ValueError, match="have one output, as upstream reads no other, got 2"):
        load_zeroeval_results(path, "gsm8k")


def test_zeroeval_has_no_number_comparison(tmp_path):
    with pytest.raises(ValueError, match="benchmark must be one that ZeroEval has, got 'number_comparison'"):
        load_zeroeval_results(tmp_path / "any.json", "number_comparison")


@needs_data
def test_rescoring_gives_the_same_records():
    results = load_zeroeval_results(DATA / "crux" / "Qwen2-7B-Instruct.json.gz", "crux")
    first, second = (score_records("crux", results.items, results.completions) for _ in range(2))
    assert first == second and len(first) == crux.NUM_ITEMS
