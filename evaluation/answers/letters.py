r"""The letter that a free reply chooses, by the published rules of MMLU-Pro and of GPQA; the rule that found it is part of the result.

MMLU-Pro's (https://github.com/TIGER-AI-Lab/MMLU-Pro, compute_accuracy.py, "level 2"), in order: the first `answer is (X)`, with or
without parentheses; the last `Answer: X` of the first line that has one; the last single capital letter of the choices' ten. Upstream
guesses at random where all three find nothing: here that is no answer.

GPQA's (https://github.com/idavidrein/gpqa, baselines): `answer is (X)`, `Answer: (X)`, `answer: (X)`, `answer (X)`, and any `(X)`, each
where it stands first in the text. Where what it has in parentheses there is no choice, the next rule is tried. They are of 2023, and find
nothing in `The answer is **B**.`, and in `(A) is too small. The answer is **(B)**` the letter that is ruled out. So a rule of the project's
own stands beside them. The last of these counts: `answer is X`, `answer: X`, `the correct option is X`, `\boxed{X}`, and X below a heading
"Answer". X may be in parentheses, bold, between dollars or quotes, or in a box; one of several (`A or B`) and one that is asked about
(`is it A?`) say nothing. Without any of them it is the letter that a reply of one line begins with, else the last `(X)`.

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

# What may stand around a letter: blanks, Markdown's and LaTeX's marks, quotes, and commands such as \boxed{\text{B}}; of bounded length.
_COMMANDS = "boxed|text(?:bf|it|rm|sf)?|math(?:bf|it|rm|sf)|rm|large|displaystyle"
_MARKS = rf"(?:[\s*_`$({{\[\"“”'‘’«]|\\(?:(?:{_COMMANDS})\b|[(\[])){{0,24}}"
_CLOSED = r"[)\]}*_`$\"”'’»]{0,6}"
# `Best`, `A's`, `C_6`, `D₂O` and `C–H` are no letters, and nor is one of several, or one that is asked about.
_CHOICE = (
    r"([A-D])(?![^\W_]|_[\w{]|[\^‑–-]|['’]\w)"
    rf"(?!{_CLOSED}(?:\s?\?|\s*(?:\bor\b|\band\b|/|,)\s*\(?[A-D](?![^\W_])))"
)
_NAMED = r"(?i:option|choice|letter)"
_IS = r"(?i:is|must\s+be|should\s+be|would\s+be|is\s+clearly|is\s+therefore|is\s+thus)"
_STATED = re.compile(
    rf"(?i:answer(?:\s+to\s+(?:the|this)\s+question)?|option|choice)[*_]{{0,3}}(?:\s+{_IS}\b[*_]{{0,3}}\s?:?|\s?[:：])"
    rf"(?:{_MARKS}(?i:the\s+)?(?i:correct\s+)?{_NAMED}(?:\s+is)?\s)?{_MARKS}{_CHOICE}"
)
# A heading, and below it the letter.
_HEADED = re.compile(rf"^[ \t#*_]{{0,9}}(?i:(?:final\s)?answer)[*_:]{{0,4}}[ \t]{{0,9}}\n{_MARKS}{_CHOICE}", re.MULTILINE)
_BOXED = re.compile(rf"\\boxed{_MARKS}(?:{_NAMED}\s{_MARKS})?{_CHOICE}")
_BARE = re.compile(rf"{_MARKS}(?:{_NAMED}\s{_MARKS})?([A-D])(?:[)\].:*_}}$]|$)")
_PARENTHESES = re.compile(r"\(([A-D])\)")

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
    """The letter of A to D that a reply states last, and `stated`, `boxed`, `bare`, `parentheses` or `none`."""
    stated = [("stated", match) for pattern in (_STATED, _HEADED) for match in pattern.finditer(text)]
    stated += [("boxed", match) for match in _BOXED.finditer(text)]
    if stated:
        rule, last = max(stated, key=lambda found: found[1].start(1))
        return Extraction(last.group(1), rule)
    alone = text.strip()
    if "\n" not in alone and (match := _BARE.match(alone)):
        return Extraction(match.group(1), "bare")
    letters = _PARENTHESES.findall(text)
    return Extraction(letters[-1], "parentheses") if letters else NOTHING


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
