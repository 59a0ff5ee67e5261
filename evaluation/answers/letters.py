r"""The letter that a free reply chooses, by the published rules of MMLU-Pro and of GPQA; the rule that found it is part of the result.

MMLU-Pro's (https://github.com/TIGER-AI-Lab/MMLU-Pro, compute_accuracy.py, "level 2"), in order: the first `answer is (X)`, with or
without parentheses; the last `Answer: X` of the first line that has one; the last single capital letter of the choices' ten. Upstream
guesses at random where all three find nothing: here that is no answer.

GPQA's (https://github.com/idavidrein/gpqa, baselines): `answer is (X)`, `Answer: (X)`, `answer: (X)`, `answer (X)`, and any `(X)`, each
where it stands first in the text. Where what it has in parentheses there is no choice, the next rule is tried. They are of 2023, and find
nothing in `The answer is **B**.`, and in `(A) is too small. The answer is **(B)**` the letter that is ruled out. So a rule of the project's
own stands beside them, in order: the last `answer is X` or `answer: X`; the last `\boxed{X}`; the last `(X)`. There X may be in
parentheses, bold, between dollars, or in a box.

Every step takes time linear in the text; upstream's own expressions for MMLU-Pro's second and third rule are quadratic.
"""

from __future__ import annotations

import re

from evaluation.answers.parsing import Extraction

_ANSWER_IS = re.compile(r"answer is \(?([A-J])\)?")
# Looks ahead, so that one may begin inside another: `Answer: Answer: B`.
_ANSWER_COLON = re.compile(r"(?=[aA]nswer:\s*([A-J]))")
_LETTER = re.compile(r"\b[A-J]\b")

_GPQA = (
    ("answer_is", re.compile(r"answer is \((.)\)")),
    ("answer_colon", re.compile(r"Answer: \((.)\)")),
    ("answer_colon", re.compile(r"answer: \((.)\)")),
    ("answer", re.compile(r"answer \((.)\)")),
    ("parentheses", re.compile(r"\((.)\)")),
)

# What may stand around a letter: blanks, Markdown's and LaTeX's marks, and commands such as \boxed{\text{B}}; of bounded length.
_MARKS = r"(?:[\s*_`$({\[]|\\(?:boxed|text|textbf|mathbf|mathrm|[(\[])){0,24}"
# `Best`, `A's` and `B2` are no letters.
_CHOICE = r"([A-D])(?![A-Za-z0-9'’])"
_LAST = (
    (
        "stated",
        re.compile(
            rf"(?i:answer)[*_]{{0,3}}(?:\s+(?i:is)\b[*_]{{0,3}}:?|\s?:)(?:{_MARKS}(?i:option|choice|letter)\s)?{_MARKS}{_CHOICE}"
        ),
    ),
    ("boxed", re.compile(rf"\\boxed{_MARKS}{_CHOICE}")),
    ("parentheses", re.compile(r"\(([A-D])\)")),
)

NOTHING = Extraction(None, "none")


def mmlu_pro_letter(text: str) -> Extraction:
    """The letter of A to J by MMLU-Pro's rules, and `answer_is`, `answer_colon`, `last_letter` or `none`."""
    if match := _ANSWER_IS.search(text):
        return Extraction(match.group(1), "answer_is")
    if letter := _last_on_first_line(text):
        return Extraction(letter, "answer_colon")
    letters = _LETTER.findall(text)
    return Extraction(letters[-1], "last_letter") if letters else NOTHING


def gpqa_letter(text: str) -> Extraction:
    """The letter of A to D by GPQA's rules, and `answer_is`, `answer_colon`, `answer`, `parentheses` or `none`."""
    for rule, pattern in _GPQA:
        match = pattern.search(text)
        if match and match.group(1) in "ABCD":
            return Extraction(match.group(1), rule)
    return NOTHING


def last_letter(text: str) -> Extraction:
    """The letter of A to D that a reply states last, and `stated`, `boxed`, `parentheses` or `none`."""
    for rule, pattern in _LAST:
        if letters := pattern.findall(text):
            return Extraction(letters[-1], rule)
    return NOTHING


def _last_on_first_line(text: str) -> str | None:
    r"""What `.*[aA]nswer:\s*([A-J])` finds first: its dot ends with the line, and takes as much of that as it can."""
    letter, line_end = None, -1
    for match in _ANSWER_COLON.finditer(text):
        if letter is not None and match.start() > line_end:
            break
        if letter is None:
            line_end = text.find("\n", match.start())
            line_end = len(text) if line_end < 0 else line_end
        letter = match.group(1)
    return letter
