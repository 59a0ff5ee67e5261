"""Extraction in ZeroEval's order, the numbers of mathematical answers, and hostile text in bounded time."""

import time

import pytest

from evaluation.answers.arithmetic import ArithmeticTextError, evaluate
from evaluation.answers.parsing import Extraction, extract_answer, first_balanced_braces, math_number
from evaluation.benchmarks import crux, gsm8k, math, math_l5, mmlu_redux, mmlu_redux_2, number_comparison

MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("text", "value", "rule"),
    [
        ('{"reasoning": "x", "answer": "42"}', "42", "json"),
        ('```json\n{"answer": 42}\n```', 42, "json"),
        ('{"answer":\n"a\nb"}', "ab", "json"),  # newlines are removed before the text is read as JSON
        ('{"answer": null}', None, "json"),
        ('{"answer": "1"} {"answer": "2"}', "1", "json"),  # the first one counts
        ('}} {"answer": "1"}', "1", "json"),
        ('{"reasoning": "a set {1, 2}", "answer": "1"}', "1", "json"),
        # The first balanced braces are no JSON: the whole text is searched, not the next braces.
        ('f(x) = {x} so {"answer": "3"}', "3", "quoted_value"),
        ('{"reasoning": "\\d", "answer": "3"}', "3", "quoted_value"),  # an escape that JSON does not have
        ('{"reasoning": "tab\there", "answer": "3"}', "3", "quoted_value"),  # a control character
        ('{"thoughts": "x"} "answer": "4"', "4", "quoted_value"),
        ('"answer" : "two\nlines"', "two\nlines", "quoted_value"),
        ('{"answer": 12, "reasoning": "cut', "12", "unquoted_value"),
        ('{"answer": "cut', '"cut', "unquoted_value"),
        ('{"answer": ', "", "unquoted_value"),
        ("The answer: 7, of course", "7", "unquoted_key"),
        ("{answer: 7}", "7}", "unquoted_key"),
        ("It is 7.", None, "none"),
        ("Answer: 7", None, "none"),
        ("", None, "none"),
    ],
)
def test_the_rules_in_their_order(text, value, rule):
    assert extract_answer(text) == Extraction(value, rule)


def test_the_boxed_rule_is_the_last_one_only_where_asked_for_and_only_near_the_end():
    text = r"First \boxed{12}, so it is $\boxed{13}$"
    assert extract_answer(text) == Extraction(None, "none")
    assert extract_answer(text, boxed=True) == Extraction("12", "boxed")
    assert extract_answer(text + " " * 30, boxed=True).rule == "none"
    assert extract_answer(r"\boxed{-3}", boxed=True).rule == "none"
    assert extract_answer(r'{"answer": "1"} \boxed{2}', boxed=True) == Extraction("1", "json")


@pytest.mark.parametrize("text", ['{"answer": null}', '{"answer": ""}'])
def test_null_and_empty_answers_are_none_where_the_protocol_says_so(text):
    assert extract_answer(text).rule == "json"
    assert extract_answer(text, empty_is_none=True).rule == "none"
    assert extract_answer(text + r" \boxed{A}", boxed=True, empty_is_none=True) == Extraction("A", "boxed")


def test_braces():
    assert first_balanced_braces("}{a{b}c}{d}") == "{a{b}c}"
    assert first_balanced_braces("{{}") is None
    assert first_balanced_braces("") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42),
        ("$1,234.50", 1234.5),
        ("-3 degrees", -3),
        ("between 3 and 5", 3),
        ("3/4", 0.75),
        ("(1 + 2) / 2 ** 2", 0.75),
        ("3/4 cup", 3),
        ("x/2", 2),
        ("1/0", 1),
        ("10/2 = 5", 10),
        ("1e16/1", 1),  # as upstream: the quotient prints as 1e+16, whose first number is 1
        ("None", None),
        ("inf", None),
        ("", None),
    ],
)
def test_the_first_number_of_a_mathematical_answer(text, number):
    assert math_number(text) == number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        ("2**3**2", 512),
        ("-2**2", -4),
        ("(1-3)/4", -0.5),
        ("2 ** -1", 0.5),
        ("1_000/10", 100),
        ("2**5000/2**4999", 2),
        ("+3", 3),
        # What upstream's `eval` makes of answers that say two things, or compute.
        ("6/2 or 3", 3),
        ("0/2 or 5", 5),
        ("6/2 and 8/2", 4),
        ("10/2 == 5", 1),
        ("1 < 4/2 < 3", 1),
        ("not 1/2", 0),
        ("17//2", 8),
        ("17/2 % 3", 2.5),
        ("round(22/7)", 3),
        ("abs(int(-9/2))", 4),
        ("~+1/2", -1),
        ("True+1/2", 1.5),
        ("6//2 ^ 5 | 8 & 12", 14),
        ("1 << 3 >> 1", 4),
    ],
)
def test_arithmetic_means_what_it_means_in_python(text, value):
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "1/0", "9**9**9**9", "(9**9999)**9999", "10.0**400", "2**10000/1", "(-8)**(1/3)", "(" * 900, "-" * 999 + "1", "1+" * 499 + "1+",
        "2(3)/4", "07/2", "1/e", "1 2", "1//0", "1/2\x00", "__import__('os')", "1" * 1001, "(lambda: 1)()", "1/(2,)",
        "'6'/2", "[1/2]", "round(1, 2)/1",
        "exec('1')", "1/2 if 1 else 2", "1/2 in 3", "print(1/2)", "(1).real/2",
        "1 ^ (2/2)", "~(1/2)", "1 << 2**14", "1 << -1", "7 is 3/4", "str(31/2)", "1/2j", "None/2", "int(1e999)",
    ],
)  # fmt: skip
def test_what_has_no_value_is_refused_at_once(text):
    started = time.monotonic()
    with pytest.raises(ArithmeticTextError):
        evaluate(text)
    assert time.monotonic() - started < 2


HOSTILE = {
    "open braces": "{" * (5 * MEBIBYTE),
    "nested objects": '{"answer":' * 400_000 + "1" + "}" * 400_000,
    "nested lists": '{"answer": ' + "[" * (2 * MEBIBYTE) + "]" * (2 * MEBIBYTE) + "}",
    "many objects": "{}" * (2 * MEBIBYTE),
    "long integer": '{"answer": ' + "9" * (5 * MEBIBYTE) + "}",
    "long number text": '"answer": "' + "9" * (5 * MEBIBYTE) + '"',
    "long fraction": '"answer": "' + "9/" * (2 * MEBIBYTE) + '"',
    "powers": '{"answer": "9**9**9**9**9/1"}',
    "spaces": '"answer"' + " " * (5 * MEBIBYTE),
    "keys without end": '"answer": "' * (MEBIBYTE // 2),
    "bare keys": "answer " * (MEBIBYTE // 2),
    "boxes": r"\boxed{" * (MEBIBYTE // 2),
    "NUL": '{"answer": "\x00\x00"}',
    "control characters": "".join(map(chr, range(32))) * 1000 + '"answer": "\x1b[2J\b\f"',
    "half a surrogate pair": '{"answer": "\\ud800"}',
    "not a number": '{"answer": NaN}',
    "infinite": '{"answer": -Infinity}',
    "deep literal": '{"answer": "' + "(" * 5000 + '"}',
    "signs": '{"answer": "' + "-" * 5000 + '1"}',
    "LaTeX": '{"answer": "' + "\\\\frac{" * 100_000 + '"}',
    "short deep LaTeX": '{"answer": "' + "\\\\frac{" * 250 + '"}',
    "fractions": '{"answer": "' + "\\\\frac12" * 200 + '"}',
    "words": '{"answer": "' + "\\\\text{" * 200 + "}" * 200 + '"}',
    "thousands": '{"answer": "1' + ",000" * 400 + '"}',
    "dots": '{"answer": "' + "1." * 900 + '"}',
    "bidirectional": '{"answer": "\u202e17\u2066"}',
    "long line of quotes": "'" * (5 * MEBIBYTE),
    "lists": '{"answer": [[[[[]]]]]}',
}


@pytest.mark.integration
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_a_wrong_answer_or_none_in_bounded_time(name):
    items = [
        (gsm8k, {"answer": "18"}),
        (crux, {"answer": "'a'"}),
        (mmlu_redux, {"answer": "B"}),
        (mmlu_redux_2, {"answer": "B"}),
        (math_l5, {"answer": "18"}),
        (math, {"answer": r"\frac{1}{2}"}),
        (number_comparison, {"answer": 47}),
    ]
    for module, item in items:
        options = {} if module is number_comparison else {"boxed": True}
        started = time.monotonic()
        verdict = module.score(item, HOSTILE[name], "stop", **options)
        assert verdict.outcome in ("wrong", "no_answer")
        assert time.monotonic() - started < 5, module.TITLE
