r"""The text of a final answer, before its LaTeX is read: what stands around it, damaged escapes, Unicode, units, and numbers.

Units, degree and dollar signs are dropped as MATH's and Minerva's evaluations drop them (https://arxiv.org/abs/2103.03874,
https://arxiv.org/abs/2206.14858, appendix D). Every step takes time linear in the text, for texts as short as final answers are.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from evaluation.answers.boxed import last_boxed

# JSON reads `\frac`, `\begin`, `\times`, `\rho` and `\neq` as a control character and the rest of the word. A tab or a line break may
# also be one, so those count only before what is left of a command.
_DECODED = {"\f": r"\f", "\b": r"\b", "\t": r"\t", "\r": r"\r", "\n": r"\n"}
_DECODED_ESCAPE = re.compile(
    r"[\f\b](?=[a-zA-Z])"
    r"|\t(?=(?:ext|imes|frac|heta|anh?|au|o|riangle|ilde|binom)(?![a-z])|ext[a-z]+\{)"
    r"|\r(?=(?:ight|ho|angle|floor|ceil|vert|brace|brack|m)(?![a-z]))"
    r"|\n(?=(?:eq?|ot|otin|abla|eg)(?![a-z]))"
)
# In a reply that is no JSON they stay: a line break, unless a command begins so, and characters by their number.
_ESCAPED_BREAK = re.compile(
    r"(?<!\\)((?:\\\\)*)\\n(?!(?:eq?|u|ot|otin|abla|eg|i|mid|exists|ewline|onumber|leq|geq|earrow|warrow)(?![a-zA-Z]))"
)
_ESCAPED_CHARACTER = re.compile(r"\\u([0-9a-fA-F]{4})")
_BACKSLASHES = re.compile(r"\\+")

_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho - sigma tau upsilon phi chi psi omega"
_CHARACTERS = {chr(0x3B1 + n): rf"\{name} " for n, name in enumerate(_GREEK.split()) if name != "-"}
_CAPITALS = "Gamma Delta Theta Lambda Pi Sigma Phi Psi Omega"
_CHARACTERS |= dict(zip("ΓΔΘΛΠΣΦΨΩ", map(r"\{} ".format, _CAPITALS.split()), strict=True))
_CHARACTERS |= dict(zip("ℝℤℕℚℂ", map(r"\mathbb{{{}}}".format, "RZNQC"), strict=True))
_NAMES = "infty cup cap in emptyset setminus le ge le ge ne pm mp approx times cdot cdot cdot sqrt angle langle rangle"
_CHARACTERS |= dict(zip("∞∪∩∈∅∖≤≥⩽⩾≠±∓≈×·⋅∙√∠⟨⟩", map(r"\{} ".format, _NAMES.split()), strict=True))
_CHARACTERS |= dict.fromkeys("−–—‐‑", "-") | dict.fromkeys("÷∕⁄", "/") | dict.fromkeys("°º˚", r"^\circ ")
_CHARACTERS |= dict.fromkeys("′’", "'") | dict.fromkeys("“”", '"') | {"∗": "*"} | dict.fromkeys("€£¥\u200b", "")
for _character in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞":
    _value = Fraction(unicodedata.numeric(_character)).limit_denominator(10)
    _CHARACTERS[_character] = rf"\frac{{{_value.numerator}}}{{{_value.denominator}}}"
_TABLE = str.maketrans(_CHARACTERS)
_ROOT_OF_NUMBER = re.compile(r"√\s*([0-9]+(?:\.[0-9]+)?)")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋]+")

_AROUND = [
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    *((mark, mark) for mark in ("`", '"', "'", "**", "__", "*", "_")),
]
_BOLD = re.compile(r"(?<![\w)}*])\*\*([^*]+)\*\*(?![\w({\\*])")
_POWER = re.compile(r"(?<=[\w)}])\s*\*\*\s*(?=[\w({\\-])")

_UNION = re.compile(r"(?<=[)\]}])\s*U\s*(?=[(\[{\\])")

_BLANK = r"(?:\s|~|\\[,;:! ]|\\q?quad(?![a-zA-Z]))"
_DEGREES = re.compile(r"(?:\{\s*\})?\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})|\\degrees?(?![a-zA-Z])")
_TEMPERATURE = re.compile(rf"(?<=[0-9}}])(?:{_DEGREES.pattern}){_BLANK}*(?:[CF]|\\(?:text|mathrm)\{{\s*[CF]\s*\}})$")
_AFTER_VALUE = r"(?:(?<=[0-9})!])|(?<=\\pi)|(?<=\\%)|(?<=%)|(?<=\\circ))"
# What multiplies the number or is part of it is no unit: millions, fifths, the half of the day, a variable.
_NO_UNIT = (
    r"(?:hundred|thousand|million|billion|trillion|dozen|hal(?:f|ves)|[a-z]*(?:ths|thirds|quarters|fifth|tenth)|pi|infinity"
    r"|[ap]\.?\s*m\.?|AM|PM|B\.?C\.?|A\.?D\.?|and|or|or (?:more|less)|[abcdefijknopqrtuvwxyzABDEGHIMOPQRSTUXYZ])"
)
_TEXT_UNIT = re.compile(
    rf"{_AFTER_VALUE}{_BLANK}*(?:/{_BLANK}*)?\\(?:text|mbox|mathrm|textrm|textnormal|hbox)\s*\{{(?!\s*{_NO_UNIT}\s*\}})[^{{}}]*\}}"
    rf"(?:\s*\^\s*\{{?\s*[0-9]\s*\}}?)?[.\s]*$"
)
_UNITS = (
    r"(?:(?:square|sq\.?|cubic|cu\.?)\s*)?(?:units?|points?|integers?|digits?|ways?|dollars?|cents?|per ?cent|pct\.?|deg(?:rees?)?"
    r"|radians?|rad|mph|kph"
    r"|inch(?:es)?|feet|foot|ft|yards?|yd|miles?|[kcm]?m(?<=[kcm]m)|(?:kilo|centi|milli)?met(?:er|re)s?|acres?|[km]g|grams?|gm"
    r"|(?:kilo|milli)grams?|pounds?|lbs?|ounces?|oz|tons?|lit(?:er|re)s?|ml|gallons?|quarts?|pints?|cups?"
    r"|seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|weeks?|months?|years?|students?|people|meals?|edges?|multiples?|times)"
)
_PLAIN_UNIT = re.compile(
    rf"{_AFTER_VALUE}{_BLANK}*{_UNITS}(?:\s*(?:/|per)\s*(?:{_UNITS}|[hs]))?(?:\s*\^\s*\{{?\s*[0-9]\s*\}}?)?[.\s]*$",
    re.IGNORECASE,
)

_LATEX_THOUSANDS = re.compile(r"(?<=[0-9])\s*(?:,\s*\\!|\{,\})\s*(?=[0-9]{3}(?![0-9]))")
_SPACED_THOUSANDS = re.compile(r"(?<![\w.,^}])[1-9][0-9]{0,2}(?:(?:\\[,;: ]|~|\s)[0-9]{3})+(?![0-9/]|\s*/)")
_BLANKS = re.compile(rf"{_BLANK}+")
_REPEATING = re.compile(r"(?<![0-9])([0-9]*)\.([0-9]*)\\overline\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))")
_DECIMAL = r"(?<![\w.^])([0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_SCIENTIFIC = re.compile(
    rf"(?:{_DECIMAL}\s*(?:\\times|\\cdot|\*)\s*|(?<![\w.^_}}]))10\s*\^\s*(?:\{{\s*([+-]?[0-9]{{1,3}})\s*\}}|([+-]?[0-9]{{1,3}}))(?![0-9.^!])"
)
_COMPUTER_SCIENTIFIC = re.compile(rf"{_DECIMAL}[eE]([+-]?[0-9]{{1,3}})(?![\w.])")


def cleaned(answer: str) -> str:
    r"""The answer's LaTeX without what stands around it (delimiters, emphasis, a box, a final period), damaged escapes put back."""
    text = _without_surroundings(_latex_characters(_escapes_as_written(answer)))
    if (boxed := last_boxed(text)) is not None:
        text = _without_surroundings(boxed)
    return text


def without_units(text: str) -> str:
    """The text without a unit at its end, and without degree, percent and dollar signs."""
    text = _TEMPERATURE.sub("", " ".join(text.replace(r"\$", "").replace("$", "").split()))
    for _ in range(3):  # `5 \text{ cm} \text{ per } \text{ s}`
        text = _PLAIN_UNIT.sub("", _TEXT_UNIT.sub("", text)).strip()
    return _DEGREES.sub(" ", text).replace(r"\%", "").replace("%", "").strip()


def with_plain_numbers(text: str) -> str:
    """The text with each number in one notation: no separated thousands, no powers of ten, no overlined digits."""
    text = _LATEX_THOUSANDS.sub("", text)
    if r"\begin" not in text:  # there `1\ 234` may be two rows
        text = _SPACED_THOUSANDS.sub(lambda match: _BLANKS.sub("", match.group()), text)
    text = _REPEATING.sub(_repeating, text)
    return _SCIENTIFIC.sub(_scientific, _COMPUTER_SCIENTIFIC.sub(_computer_scientific, text))


def as_latex(value: Fraction) -> str:
    r"""A number as `3` or `\frac{3}{4}`, with its sign before it."""
    sign = "-" if value < 0 else ""
    if value.denominator == 1:
        return f"{sign}{abs(value.numerator)}"
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _escapes_as_written(text: str) -> str:
    r"""Escapes that a JSON reader ate are put back, and a text that was escaped twice or more is read as often.

    Where every run of backslashes is even, `\\` is one of an escaped text. Otherwise it is what LaTeX takes it for, the end of a row;
    where there are no rows, it can only be an escape.
    """
    text = _DECODED_ESCAPE.sub(lambda match: _DECODED[match.group()], text)
    text = _ESCAPED_CHARACTER.sub(lambda match: chr(int(match.group(1), 16)), _ESCAPED_BREAK.sub(r"\1 ", text))
    while (runs := _BACKSLASHES.findall(text)) and all(len(run) % 2 == 0 for run in runs):
        text = text.replace("\\\\", "\\")
    return text if r"\begin" in text else text.replace("\\\\", "\\")


def _latex_characters(text: str) -> str:
    if text.isascii():
        return text
    text = _ROOT_OF_NUMBER.sub(r"\\sqrt{\1}", text)
    text = _RAISED.sub(lambda match: f"^{{{_plain(match.group())}}}", text)
    text = _LOWERED.sub(lambda match: f"_{{{_plain(match.group())}}}", text)
    return unicodedata.normalize("NFKC", text.translate(_TABLE))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _without_surroundings(text: str) -> str:
    before = None
    while text != before:
        before, text = text, text.strip()
        for start, end in _AROUND:
            inner = text[len(start) : -len(end)]
            around = len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end)
            if around and start not in inner.replace(r"\$", ""):
                text = inner
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        # A value that was read without its quotes takes the end of its JSON object with it.
        if text.endswith("}") and text.count("}") > text.count("{"):
            text = text[:-1]
    return _POWER.sub("^", _UNION.sub(r"\\cup ", _BOLD.sub(r"\1", text)))


def _repeating(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as a fraction."""
    whole, fixed, repeated = match.group(1), match.group(2), match.group(3) or match.group(4)
    above = int(whole + fixed + repeated) - int((whole + fixed) or "0")
    return as_latex(Fraction(above, 10 ** len(fixed) * (10 ** len(repeated) - 1)))


def _scientific(match: re.Match[str]) -> str:
    return as_latex(Fraction(match.group(1) or 1) * Fraction(10) ** int(match.group(2) or match.group(3)))


def _computer_scientific(match: re.Match[str]) -> str:
    number, exponent = match.groups()
    if "." not in number and exponent.startswith("-") and len(exponent) == 2:
        return match.group()  # `5e-1` may be Euler's number less one
    return as_latex(Fraction(number) * Fraction(10) ** int(exponent))
