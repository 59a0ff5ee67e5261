r"""Whether two final answers written in LaTeX, or as plain text, have the same normal form.

`\dfrac12`, `\frac{1}{2}`, `1/2` and `0.5` are one answer here, and so are `\left( 3, 4 \right)` and `(3,4)`. What needs algebra to be
seen as equal (`2x+2` and `2(x+1)`) stays different: that is math-verify's part, which is a metric of its own. The forms that count
as one follow the evaluation of MATH, https://arxiv.org/abs/2103.03874; docs/benchmarks.md lists them.
"""

from __future__ import annotations

import re

from evaluation.answers.latex_form import TooDeepError, form
from evaluation.answers.latex_terms import group_content
from evaluation.answers.latex_text import cleaned, with_plain_numbers, without_units

MAX_CHARACTERS = 2000

# `x=`, `f(x)=`, `\theta=`, `a_{1}=`, `AB=`, `x\in`.
_VARIABLE = re.compile(
    r"((?:[a-zA-Z]|[A-Z]{2,3}|\\(?:alpha|beta|gamma|theta|phi|lambda|mu|omega|angle ?[A-Z]{1,3}))(?:_\{\w+\})?(?:\^\{-1\})?'*"
    r"(?:\([a-zA-Z]\))?)(=|\\in ?)(?=.)"
)
_THOUSANDS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9,])")
_CHOICE = re.compile(r"\(?([A-Z])\)")


def equivalent(answer: str, gold: str) -> bool:
    """Whether two final answers have the same normal form, or are the same rational number.

    `x=5` is `5`, and not `y=5`. `1,000` is a number, and may as well be a list of two: it equals either.
    """
    return any(_same(left, right) for left in readings(answer) for right in readings(gold))


def normalized(answer: str) -> str:
    """The answer in normal form; a text of more than `MAX_CHARACTERS` is no final answer and stays as it is."""
    return readings(answer)[0]


def readings(answer: str) -> list[str]:
    """The answer's form; several where commas may part thousands as well as the members of a list, or braces may be a set's."""
    if len(answer) > MAX_CHARACTERS:
        return [answer]
    text = cleaned(answer)
    if len(text) > MAX_CHARACTERS:  # Unicode's ligatures are longer in plain letters
        return [text]
    text = with_plain_numbers(without_units(text))
    texts = [text]
    groups = _THOUSANDS.findall(text)
    if groups and text.count(",") == sum(group.count(",") for group in groups) and not re.search(r"[(\[]|\\\{", text):
        texts = [_THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)]
        if not any(",0" in group for group in groups):
            texts.append(text)
    if _is_braced(text):
        texts.append(f"\\{text[:-1]}\\}}")
    try:
        return [_whole(form(text)) for text in texts]
    except TooDeepError:
        return [text]


def _is_braced(text: str) -> bool:
    """Whether a text stands in one pair of braces: in LaTeX they only group, in plain text they are a set's."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return position == len(text) - 1 and text.startswith("{")
    return False


def _whole(text: str) -> str:
    """A form that is a choice's letter, words, or one value in parentheses: `(C)` is `C`, `East` is `east`; `(5)` is `5`."""
    if match := _CHOICE.fullmatch(text):
        return match.group(1)
    text = content if (content := group_content(text)) is not None else text
    if re.fullmatch("[A-Za-z]{3,}|No", text) and not re.search("[A-Z]{2}|[A-Z]$", text):
        return text.lower()
    return text


def _same(left: str, right: str) -> bool:
    if left == right:
        return left != ""
    (variable, value), (other, other_value) = _assignment(left), _assignment(right)
    return _whole(value) == _whole(other_value) != "" and (variable is None or other is None)


def _assignment(text: str) -> tuple[str | None, str]:
    """The variable that a form names and its value, or values: `x=1,x=2`; no variable where it is no such form."""
    match = _VARIABLE.match(text)
    if match is None:
        return None, text
    start = match.group()
    relation = match.group(2)
    parts = re.split(rf"(?:^|,){re.escape(start)}", text)
    if len(parts) - 1 != text.count(relation.strip()) or text.count("=") != (len(parts) - 1) * (relation == "="):
        return None, text
    return match.group(1), ",".join(parts[1:])
