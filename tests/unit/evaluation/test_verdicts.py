"""Verdicts of benchmarks, by each one's own rule."""

import json

import pytest

from evaluation.benchmarks import crux, gsm8k, math_l5, mmlu_redux


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("18", "18", "correct"),
        ("18", 18, "correct"),
        ("18", "$18.00 per day", "correct"),
        ("1000", "1,000", "correct"),
        ("2125", "$2,125", "correct"),
        ("3", "6/2", "correct"),
        ("18", "17 or 18", "wrong"),
        ("18", None, "wrong"),  # null is the text None, which has no number: wrong, and not missing
        ("18", [18, 2], "correct"),
        ("18", "eighteen", "wrong"),
        ("-18", "-18", "correct"),
        ("18", "", "wrong"),
    ],
)
def test_numbers_are_compared_as_floats(gold, answer, outcome):
    for module in (gsm8k, math_l5):
        assert module.score({"answer": gold}, json.dumps({"answer": answer}), "stop").outcome == outcome


@pytest.mark.parametrize(
    ("gold", "answer", "right", "literal"),
    [
        ("'abc'", "abc", True, True),
        ("'abc'", "'abc'", True, True),
        ("'abc'", '"abc"', True, True),
        ("'a\\nb'", "'a\\nb'", True, True),
        ("[1, 2]", "[1,2]", False, True),  # equal values, other text
        ("{'a': 1, 'b': 2}", "{'b': 2, 'a': 1}", False, True),
        ("[1, 2]", [1, 2], True, True),
        ("True", True, True, True),
        ("1", True, False, False),
        ("1", "1.0", False, False),
        ("[1]", "[True]", False, False),
        ("{1, 2}", "{2, 1}", False, True),
        ("(1, 2)", "[1, 2]", False, False),
        ("''", "", True, True),
        ("'5'", "5", True, False),  # the texts are equal without quotes, the types are not
        ("None", None, True, True),
        ("[1]", "f(1)", False, False),
        ("{1: 2}", "{True: 2}", False, False),  # keys and members have types too
        ("{1, 2}", "{1.0, 2}", False, False),
        ("[{1: [1]}]", "[{1: [True]}]", False, False),
        ("[{1: [1]}]", "[{1:[1]}]", False, True),
        ("'a\\nb'", "'a\nb'", True, True),  # a line break that JSON decoded
        ("['a\\nb', 'c']", "['a\nb', 'c']", True, True),
        ("'a\\nb'", "a\\nb", True, True),
        ("'a\\nb'", "ab", False, False),
        ('"it\'s"', "it's", True, True),
        ("True", "true", False, False),
    ],
)
def test_crux_compares_texts_and_beside_that_values(gold, answer, right, literal):
    verdict = crux.score({"answer": gold}, json.dumps({"answer": answer}), "stop")
    assert (verdict.outcome == "correct", verdict.metrics["literal_match"]) == (right, literal)


def test_a_newline_of_the_model_is_compared_as_its_escape():
    assert crux.score({"answer": "'a\\nb'"}, '"answer": "a\nb"', "stop").outcome == "correct"
    assert crux.score({"answer": "a\nb"}, '{"answer": "a\\nb"}', "stop").outcome == "wrong"  # the gold side stays as it is


def test_crux_executes_nothing(tmp_path):
    path = tmp_path / "made"
    text = json.dumps({"answer": f"__import__('pathlib').Path('{path}').touch()"})
    assert crux.score({"answer": "None"}, text, "stop").outcome == "wrong"
    assert not path.exists()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("B", "correct"),
        ("B) because", "correct"),
        ("(B)", "correct"),
        ("b", "wrong"),
        ("B.", "wrong"),
        ("Based on this, A", "wrong"),
        ("A) or B)", "correct"),
        (["B"], "wrong"),
        (["B)"], "correct"),  # upstream's `in` looks into lists too
        ({"B)": 1}, "correct"),
        (2, "wrong"),
        ("", "no_answer"),
        (None, "no_answer"),
    ],
)
def test_mmlu_takes_the_letter_or_the_letter_before_a_parenthesis(answer, outcome):
    assert mmlu_redux.score({"answer": "B"}, json.dumps({"answer": answer}), "stop").outcome == outcome
