"""Readers of what models, judges and files say take bounded time, whatever that is, and read what they read before."""

import random
import re
import time

import pytest

from bnf.between import texts_between
from data.messages import decoded
from data.sources import prometheus
from evaluation.answers.letters import gpqa_letter, last_letter, mmlu_pro_letter
from evaluation.answers.thoughts import answer_start, ends_alone
from evaluation.judging.protocols import turn_score
from evaluation.judging.recorded import arena
from evaluation.scoring.zeroeval import _crux_question

SECONDS = 10

# The expressions that these readers had.
CRUX = re.compile(r"\[PYTHON\]\n(?P<code>.*)\nassert f\((?P<input>.*)\) == \?\?\n\[/PYTHON\]\s*\Z", re.DOTALL)


def in_time(function, text):
    began = time.process_time()
    found = function(text)
    assert time.process_time() - began < SECONDS
    return found


@pytest.mark.parametrize(
    "text", ["[[" + "1" * 300_000, "[" * 300_000, "[[1" * 100_000, "[[1." * 100_000, "[[" + "1" * 300_000 + "]]"]
)
def test_ratings_take_linear_time(text):
    assert in_time(turn_score.parse, text) is None


@pytest.mark.parametrize(
    ("text", "rating"),
    [("[[7]]", 7), ("[[7.]]", 7), ("so [[7.5]]", 7.5), ("[3] or [[4]]", 4), ("[2.5]", 2.5), ("[[.5]]", None)],
)
def test_ratings_are_read_as_before(text, rating):
    assert turn_score.parse(text) == rating


@pytest.mark.parametrize("marks", [arena._MARKS, prometheus._HEADS], ids=["arena", "prometheus"])
def test_texts_between_marks_take_linear_time_and_are_those_of_the_expression(marks):
    first, *rest = marks
    for text in (first * 9000 + "".join(one * 3000 for one in rest[:-1]), "".join(marks[:-1]) * 3000, rest[-1] * 9000):
        assert in_time(lambda text: texts_between(text, marks), text) is None
    expression = re.compile("(.*)".join(map(re.escape, marks)), re.DOTALL)
    draw, found = random.Random(0), 0
    for _ in range(1000):
        text = "".join(draw.choices([*marks, "x", "\n"], k=draw.randint(4, 9)))
        if draw.random() < 0.5:
            text = f"{marks[0]}{text}{marks[1]}\n" + "b".join(marks[2:]) + text
        match = expression.search(text)
        assert texts_between(text, marks) == (match and list(match.groups())), text
        found += match is not None
    assert found > 200


CRUX_PIECES = ["[PYTHON]\n", "\nassert f(", ") == ??\n[/PYTHON]", "x", "\n", " "]


def test_questions_of_crux_take_linear_time():
    for text in (
        "[PYTHON]\n" + "\nassert f(" * 5000,
        ") == ??\n[/PYTHON]" * 5000 + "x",
        "[PYTHON]\n" * 9000 + " " * 100_000 + "x",
    ):
        assert in_time(_crux_question, text) is None


def test_questions_of_crux_are_those_of_the_expression():
    draw, found = random.Random(0), 0
    for _ in range(4000):
        text = "".join(draw.choices(CRUX_PIECES, k=draw.randint(2, 9)))
        if draw.random() < 0.5:
            text = f"[PYTHON]\n{text}\nassert f(1) == ??\n[/PYTHON]\n "
        match = CRUX.search(text)
        assert _crux_question(text) == (match and match.groupdict()), text
        found += match is not None
    assert found > 500


@pytest.mark.parametrize("text", ["array(" + " " * 300_000 + "x", "array( [" + " " * 300_000 + "x", "[" + " " * 300_000 + "x"])
def test_printed_messages_take_linear_time(text):
    assert in_time(decoded, text) == text


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': 'user', 'content': 'x'}]",
        "array([{'role': 'user', 'content': 'x'}])",
        "array( {'role': 'user', 'content': 'x'})",
        "( {'from': 'user', 'value': 'x'},)",
        "Message(role='user', content='x')",
        "array( [ Message( role='user', content='x')])",
    ],
)
def test_printed_messages_are_refused_as_before(text):
    with pytest.raises(ValueError, match="got the printed form of a list"):
        decoded(text)


LETTERS = [
    *(
        "answer:" + " " * 200_000,
        "answer: " * 40_000,
        "answer is (" * 30_000,
        "(" * 300_000,
        "The correct option is" + " " * 200_000,
    ),
    *(
        "**" * 150_000,
        "\\boxed{" * 40_000,
        "\\boxed{\\text{" * 20_000,
        "answer is A or " * 20_000,
        "Answer\n" * 40_000,
        "A or" + " " * 200_000,
    ),
]


@pytest.mark.parametrize("text", LETTERS, ids=lambda text: text[:12])
@pytest.mark.parametrize("reader", [mmlu_pro_letter, gpqa_letter, last_letter])
def test_letters_take_linear_time(reader, text):
    in_time(reader, text)


THOUGHTS = [
    "`" * 300_000,
    "``` " * 80_000,
    "`<think>" * 40_000,
    "<think>`" * 40_000,
    "</think>" * 40_000,
    "</think>{" * 20_000,
    "{" * 300_000,
]


@pytest.mark.parametrize("text", THOUGHTS, ids=lambda text: text[:12])
@pytest.mark.parametrize("reader", [answer_start, ends_alone])
def test_thoughts_are_read_in_bounded_time(reader, text):
    in_time(reader, text)


class Counted(str):
    """A text that counts how many of its characters are looked through for line breaks."""

    looked_through = 0

    def count(self, sub, start=0, end=None):
        Counted.looked_through += (len(self) if end is None else end) - start
        return super().count(sub, start, end)

    def rfind(self, sub, start=0, end=None):
        return super().rfind(sub, start, end)


def test_no_place_that_is_tried_for_json_is_looked_for_from_the_beginning(monkeypatch):
    """An error of the JSON decoder says its line: of 2,000 errors in one text each would count all lines before it."""
    monkeypatch.setattr(Counted, "looked_through", 0)
    text = Counted("</think>{\n" * 2000 + "4")
    assert answer_start(text) == 2000 * len("</think>{\n") - len("{\n")
    assert Counted.looked_through <= len(text)
