r"""Final answers written in LaTeX, brought to one form so that they can be compared as text, in time linear in the text.

`\dfrac12`, `\frac{1}{2}`, `1/2` and `0.5` are one answer here, and so are `\left( 3, 4 \right)` and `(3,4)`. What needs algebra to be
seen as equal (`2x+2` and `2(x+1)`) stays different: that is math-verify's part, which is a metric of its own. The forms that count
as one follow the evaluation of MATH, https://arxiv.org/abs/2103.03874.
"""

from __future__ import annotations

import re
from fractions import Fraction

from evaluation.boxed import last_boxed

MAX_CHARACTERS = 2000

# JSON reads `\frac`, `\begin`, `\times` and `\rho` as a control character and the rest of the word.
_DECODED = {"\f": r"\f", "\b": r"\b", "\t": r"\t", "\r": r"\r"}
_DECODED_ESCAPE = re.compile(r"[\f\b\t\r](?=[a-zA-Z])")
_SPACES = re.compile(r"\\[!,;: ]|\\q?quad|\\displaystyle|~|\s+")
_SIZES = re.compile(r"\\(?:left|right|big|Big|bigg|Bigg)(?![a-zA-Z])")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_UNIT = re.compile(r"(?<=[\d}])\\(?:text|mbox|mathrm|textrm)\{[^{}]*\}(?:\^\{?\d\}?)?$")
_WORDS = re.compile(r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf|textit)\{([^{}]*)\}")
_BARE_FRACTION = re.compile(r"\\frac(?:\{([^{}]*)\}|(\w))(?:\{([^{}]*)\}|(\w))")
_BARE_ROOT = re.compile(r"\\sqrt(\w)")
_VARIABLE = re.compile(r"^(?:[a-zA-Z]|[a-zA-Z]\([a-zA-Z]\))=(?=[^=]+$)")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)")
_QUOTIENT = re.compile(r"(-?)\\frac\{(-?\d+)\}\{(-?\d+)\}|(-?)(-?\d+)/(-?\d+)")


def equivalent(answer: str, gold: str) -> bool:
    """Whether two final answers have the same form, or are the same rational number."""
    left, right = normalized(answer), normalized(gold)
    if left == right:
        return left != ""
    numbers = rational(left), rational(right)
    return numbers[0] is not None and numbers[0] == numbers[1]


def cleaned(answer: str) -> str:
    r"""The answer's LaTeX without its delimiters: what a `\boxed{…}` holds, escapes that a JSON reader ate put back."""
    text = _DECODED_ESCAPE.sub(lambda match: _DECODED[match.group()], answer).replace("\\\\", "\\")
    text = text.strip().strip("$").strip()
    for start, end in ((r"\(", r"\)"), (r"\[", r"\]")):
        text = text.removeprefix(start).removesuffix(end)
    if (boxed := last_boxed(text)) is not None:
        text = boxed
    return text.strip().removesuffix(".")


def normalized(answer: str) -> str:
    """The answer in its one form; a text of more than `MAX_CHARACTERS` is no final answer and stays as it is."""
    if len(answer) > MAX_CHARACTERS:
        return answer
    text = cleaned(answer).replace("{,}", ",").replace(r"\$", "").replace(r"\%", "").replace("%", "").replace("$", "")
    text = _FRACTIONS.sub(r"\\frac", _SIZES.sub("", text))
    text = _SPACES.sub("", text).replace(r"^\circ", "").replace(r"^{\circ}", "")
    text = _WORDS.sub(r"\1", _UNIT.sub("", text))
    text = _BARE_FRACTION.sub(_braced_fraction, _BARE_ROOT.sub(r"\\sqrt{\1}", text))
    text = _VARIABLE.sub("", text)
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def rational(text: str) -> Fraction | None:
    """The number that a normalized answer is: a decimal, or a quotient of whole numbers; None for anything else."""
    if len(text) > MAX_CHARACTERS:  # Python refuses to read numbers of thousands of digits
        return None
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    match = _QUOTIENT.fullmatch(text)
    if match is None:
        return None
    sign, above, below = match.group(1, 2, 3) if match.group(2) else match.group(4, 5, 6)
    if int(below) == 0:
        return None
    return Fraction(int(above), int(below)) * (-1 if sign else 1)


def _braced_fraction(match: re.Match[str]) -> str:
    above, below = match.group(1) or match.group(2) or "", match.group(3) or match.group(4) or ""
    return f"\\frac{{{above}}}{{{below}}}"
