"""Readers of what models, judges and files say take bounded time, whatever that is, and read what they read before."""

import re
import time

import pytest

from data.messages import decoded
from evaluation.judging.protocols import turn_score
from evaluation.judging.recorded.arena import _answers
from evaluation.scoring.zeroeval import _crux_question

SECONDS = 10

# The expressions that these readers had.
ARENA = re.compile(
    r"<\|The Start of Assistant A's Answer\|>\n(.*)\n<\|The End of Assistant A's Answer\|>"
    r".*<\|The Start of Assistant B's Answer\|>\n(.*)\n<\|The End of Assistant B's Answer\|>",
    re.DOTALL,
)
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


A, A_END = "<|The Start of Assistant A's Answer|>", "<|The End of Assistant A's Answer|>"
B, B_END = (part.replace("Assistant A", "Assistant B") for part in (A, A_END))
PIECES = [f"{A}\n", f"\n{A_END}", f"{B}\n", f"\n{B_END}", "x", "\n"]


def test_answers_in_a_prompt_take_linear_time():
    for text in (f"{A}\n" * 3000 + f"\n{A_END}" * 3000 + f"{B}\n" * 3000, (f"{A}\n\n{A_END}{B}\n") * 3000, f"\n{B_END}" * 9000):
        assert in_time(_answers, text) is None


def test_answers_in_a_prompt_are_those_of_the_expression():
    import random

    draw, found = random.Random(0), 0
    for _ in range(4000):
        text = "".join(draw.choices(PIECES, k=draw.randint(4, 9)))
        if draw.random() < 0.5:
            text = f"{A}\n{text}\n{A_END}\n\n{B}\nb\n{B_END}{text}"
        match = ARENA.search(text)
        assert _answers(text) == (match and match.groups()), text
        found += match is not None
    assert found > 500


CRUX_PIECES = ["[PYTHON]\n", "\nassert f(", ") == ??\n[/PYTHON]", "x", "\n", " "]


def test_questions_of_crux_take_linear_time():
    for text in (
        "[PYTHON]\n" + "\nassert f(" * 5000,
        ") == ??\n[/PYTHON]" * 5000 + "x",
        "[PYTHON]\n" * 9000 + " " * 100_000 + "x",
    ):
        assert in_time(_crux_question, text) is None


def test_questions_of_crux_are_those_of_the_expression():
    import random

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
