"""Worked solutions against copies of themselves with one wrong digit: rows with a `question` and an `answer`, as GSM8K's.

A copy differs from its solution in one digit of a result: of the number after `####`, or of a number that ends a calculation. That is a
number behind `=`, unless an operator and another number follow it, and one right behind the `>>` of GSM8K's calculator notes. Operands
and other numbers of the text stay. Another digit always makes another value, so the copy states a wrong final answer or a wrong result.
A number of several digits never gets a 0 in front.

Which digit it is, and which one takes its place, a hash of question and solution decides: the same row gives the same copy in every run.
Pairs whose sides are nearly the same text are where DPO lowers the likelihood of both: https://arxiv.org/abs/2402.13228
"""

from __future__ import annotations

import random
import re

from data.rows import Candidate, Fields, Row, RowError
from data.sources import gsm8k

GIVES = "pairs"
COLUMNS = {"id": ("id",), **gsm8k.COLUMNS}

_NUMBER = r"(?P<number>[0-9]++(?:,[0-9]{3}(?![0-9]))*+(?:\.[0-9]++)?+|\.[0-9]++)"
_SIGNS = r"\s*[-−]?[$£€]?[-−]?\s*"
_FINAL = re.compile(rf"####{_SIGNS}{_NUMBER}")
# `3 x 4` is a product, `3 xylophones` is none.
_RESULT = re.compile(rf"(?:=|>>){_SIGNS}{_NUMBER}(?!\s*[-−+*/×÷^]\s*[$£€(]?\s*[0-9.]|\s*x\s*[$£€(]?[0-9])")


def row(fields: Fields) -> Row:
    """The pair.

    Raises:
        RowError: the solution states no result in digits (`no_result`).
    """
    question, solution = fields.text("question"), fields.text("answer")
    rejected = with_wrong_digit(solution, seed=f"{question}\n{solution}")
    if rejected is None:
        raise RowError("no_result", f"answer must state a result in digits, behind = or ####, got {solution[-40:]!r}")
    return Row([{"role": "user", "content": question}], (Candidate(solution, 1), Candidate(rejected, -1)))


def with_wrong_digit(solution: str, *, seed: str) -> str | None:
    """The solution with one digit of a result changed; None where no result is stated in digits."""
    numbers = {found.span("number") for pattern in (_FINAL, _RESULT) for found in pattern.finditer(solution)}
    places = sorted((place, start, end) for start, end in numbers for place in range(start, end) if solution[place].isdigit())
    if not places:
        return None
    # Seeded by the text itself: Python's hash of a text differs between processes, and this one doesn't.
    rng = random.Random(seed)
    place, start, end = rng.choice(places)
    leads = place == start and sum(character.isdigit() for character in solution[start:end].partition(".")[0]) > 1
    digit = rng.choice([digit for digit in "0123456789" if digit != solution[place] and not (leads and digit == "0")])
    return f"{solution[:place]}{digit}{solution[place + 1 :]}"
