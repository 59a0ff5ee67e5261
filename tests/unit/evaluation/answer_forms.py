"""Ways to rewrite a final answer: harmless ones, after which it is the same answer, and ones after which it is another."""

import json
import re
from collections.abc import Callable

Rewriting = Callable[[str], str]

_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}")
_SIMPLE_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")


def _in_matrix(change: Callable[[list[list[str]]], str]) -> Rewriting:
    def rewrite(answer: str) -> str:
        def matrix(match: re.Match[str]) -> str:
            rows = [[cell.strip() for cell in row.split("&")] for row in match.group(1).split(r"\\")]
            return change(rows)

        return _MATRIX.sub(matrix, answer)

    return rewrite


def _matrix(rows: list[list[str]], *, row: str = r" \\ ", cell: str = " & ", name: str = "pmatrix", end: str = "") -> str:
    return f"\\begin{{{name}}}" + row.join(cell.join(cells) for cells in rows) + end + f"\\end{{{name}}}"


def _without_blanks(answer: str) -> str:
    answer = re.sub(r"(?<!\\)\s+", " ", answer)
    parts = re.split(r"(\\(?:text|mbox)\{[^}]*\}|\\[a-zA-Z]+ (?=[a-zA-Z])|[,\d] (?=\d))", answer)
    return "".join(part if n % 2 else part.replace(" ", "") for n, part in enumerate(parts))


def _spaced(answer: str) -> str:
    """Blanks around what stands outside words and commands."""
    parts = re.split(r"(\\(?:text|mbox|begin|end)\{[^}]*\}|\\\\|\\[a-zA-Z]+|\\.|\.\d+|\d[\d.,{}!\\]*\d)", answer)
    return " ".join(part if n % 2 else re.sub(r"([-+=(){}\[\],&^_])", r" \1 ", part) for n, part in enumerate(parts))


def _without_units(answer: str) -> str:
    return re.sub(r"\\(?:text|mbox)\{([^}]*)\}", r"\1", answer)


def _double(answer: str) -> str:
    return answer.replace("\\", "\\\\")


def _array(rows: list[list[str]]) -> str:
    columns = "{" + "c" * len(rows[0]) + "}"
    return r"\left[" + _matrix(rows, name="array").replace("{array}", "{array}" + columns, 1) + r"\right]"


def _if_value(answer: str, text: str) -> str:
    """A text that names a variable, where the answer names none."""
    return answer if "=" in answer or r"\in" in answer.replace(r"\infty", "") else text


HARMLESS: dict[str, Rewriting] = {
    "as it is": lambda a: a,
    "no blanks": _without_blanks,
    "blanks": _spaced,
    "thin spaces": lambda a: re.sub(r"(?<=[\w})]) (?=[-+&])", r"\\, ", a),
    "line break": lambda a: f"\n{a}\n",
    "display fraction": lambda a: re.sub(r"\\d?frac", r"\\dfrac", a),
    "text fraction": lambda a: re.sub(r"\\d?frac", r"\\tfrac", a),
    "plain fraction": lambda a: re.sub(r"\\d?frac", r"\\frac", a),
    "quotient": lambda a: a if re.search(r"\d\s*\\d?frac|\}\s*\\pi", a) else _SIMPLE_FRACTION.sub(r"\1/\2", a),
    "decimal point": lambda a: re.sub(r"(?<![\d.])\.(?=\d)", "0.", a),
    "trailing zero": lambda a: re.sub(r"(\.\d+)", r"\g<1>0", a),
    "larger brackets": lambda a: (
        re.sub(r"(?<!\\right)([)\]])", r"\\right\1", re.sub(r"(?<!\\left)([(\[])", r"\\left\1", a)) if r"\text" not in a else a
    ),
    "no larger brackets": lambda a: a.replace(r"\left", "").replace(r"\right", ""),
    "big brackets": lambda a: a.replace(r"\left", r"\bigl").replace(r"\right", r"\bigr"),
    "dollars": lambda a: f"${a}$",
    "two dollars": lambda a: f"$${a}$$",
    "parentheses": lambda a: rf"\( {a} \)",
    "brackets": lambda a: rf"\[{a}\]",
    "bold": lambda a: f"**{a}**",
    "bold mathematics": lambda a: f"**${a}$**",
    "italic": lambda a: f"*{a}*",
    "code": lambda a: f"`{a}`",
    "period": lambda a: a.removesuffix(".") + ".",
    "period in dollars": lambda a: "$" + a.removesuffix(".") + ".$",
    "box": lambda a: rf"\boxed{{{a}}}",
    "box in a sentence": lambda a: rf"Thus the answer is $\boxed{{{a}}}$.",
    "variable": lambda a: _if_value(a, f"x = {a}"),
    "variable in dollars": lambda a: _if_value(a, f"$x={a}$"),
    "bold value": lambda a: _if_value(a, f"x = **{a.removesuffix('.')}**"),
    "escaped twice": _double,
    "minus sign": lambda a: a.replace("-", "−"),
    "Unicode": lambda a: re.sub(r"\\pi\b", "π", a.replace(r"\infty", "∞").replace(r"\cup", "∪").replace(r"\pm", "±")),
    "root sign": lambda a: re.sub(r"\\sqrt\{(\w+)\}", r"√\1", a),
    "root in words": lambda a: re.sub(r"\\sqrt\{(\w+)\}", r" sqrt(\1)", a),
    "raised digits": lambda a: a if "text" in a or "mbox" in a else re.sub(r"\^2(?!\d)", "²", a),
    "degree sign": lambda a: a.replace(r"^\circ", "°"),
    "degrees in braces": lambda a: a.replace(r"^\circ", r"^{\circ}"),
    "degrees in words": lambda a: a.replace(r"^\circ", " degrees"),
    "no degrees": lambda a: a.replace(r"^\circ", ""),
    "plain percent": lambda a: a.replace(r"\%", "%"),
    "no percent": lambda a: a.replace(r"\%", ""),
    "plain dollar": lambda a: a.replace(r"\$", "$"),
    "words plain": _without_units,
    "roman": lambda a: a.replace(r"\text", r"\mathrm").replace(r"\mbox", r"\textrm"),
    "braced index": lambda a: re.sub(r"_(\d)", r"_{\1}", a),
    "braced exponent": lambda a: re.sub(r"\^(\d)", r"^{\1}", a),
    "thousands": lambda a: a.replace(r",\!", "{,}"),
    "thousands plain": lambda a: re.sub(r",\\! ?", ",", a),
    "thousands spaced": lambda a: re.sub(r",\\! ?", r"\\,", a),
    "no thousands": lambda a: re.sub(r",\\! ?", "", a),
    "matrix in square brackets": lambda a: a.replace("pmatrix", "bmatrix"),
    "rows without blanks": _in_matrix(lambda rows: _matrix(rows, row="\\\\", cell="&")),
    "rows on lines": _in_matrix(lambda rows: _matrix(rows, row=" \\\\\n")),
    "rows with space": _in_matrix(lambda rows: _matrix(rows, row=r"\\[4pt]")),
    "last row ended": _in_matrix(lambda rows: _matrix(rows, end=r" \\ ")),
    "array": _in_matrix(_array),
    "small matrix": _in_matrix(lambda rows: r"\left(" + _matrix(rows, name="smallmatrix") + r"\right)"),
}


def _next_digit(match: re.Match[str]) -> str:
    return str((int(match.group()) + 1) % 10)


def _swapped(answer: str) -> str:
    """The first two members of a list, pair or interval in the other order."""
    match = re.fullmatch(r"(\\left)?([(\[])([^,]*),([^,]*)(,.*)?(\\right)?([)\]])", answer.replace(" ", ""))
    if match is None:
        return answer
    first, second = match.group(3), match.group(4).removesuffix(r"\right")
    return answer if first == second else f"{match.group(2)}{second},{first}{match.group(5) or ''}{match.group(7)}"


def _other_ends(answer: str) -> str:
    """An interval with the other kind of bracket at its end."""
    if r"\text" in answer or "pmatrix" in answer or answer.endswith(r"\infty)") or not re.search(r"[)\]]$", answer):
        return answer
    return answer[:-1] + {")": "]", "]": ")"}[answer[-1]]


CHANGED: dict[str, Rewriting] = {
    "first digit": lambda a: re.sub(r"\d", _next_digit, a, count=1),
    # The exponent of a unit is part of the unit.
    "last digit": lambda a: a if re.search(r"box\{.*\^", a) else re.sub(r"\d(?=\D*$)", _next_digit, a),
    "one more digit": lambda a: re.sub(r"(?<!\.)(?<!\\frac)(?<!\d)(\d)(?=\D*$)", r"7\1", a),
    "digits parted": lambda a: re.sub(r"(?<![\d.])(\d)(\d)(?!\d\d(?!\d))(?![\d.]*\})", r"\1,\2", a, count=1) if "," not in a else a,
    "sign": lambda a: a[1:] if a.startswith("-") else f"-{a}" if re.match(r"[1-9.]|\\frac|\\sqrt|\\pi", a) else a,
    "inner sign": lambda a: re.sub(r"(?<=[\w}]) ?([-+]) ?(?=[\w\\])", lambda m: {"-": "+", "+": "-"}[m.group(1)], a, count=1),
    "no root": lambda a: re.sub(r"\\sqrt\{?(\w+)\}?", r"\1", a),
    "no pi": lambda a: re.sub(r"\d\s*\\pi", "2", a),
    "fraction upside down": lambda a: re.sub(r"\\d?frac\{(\d+)\}\{(\d+)\}", r"\\frac{\2}{\1}", a, count=1),
    "mixed as fraction": lambda a: re.sub(r"^(\d+) ?\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", a),
    "members swapped": _swapped,
    "other ends": _other_ends,
    "commas left out": lambda a: re.sub(r"(?<=\d), ?(?=\d)", "", a) if r"\!" not in a and not re.fullmatch(r"\d+,\d{3}", a) else a,
    "no exponents": lambda a: re.sub(r"\^\{?(\d)\}?", r"\1", a) if "text" not in a and "mbox" not in a else a,
    "other base": lambda a: re.sub(r"_\{?(\d)\}?", "_7", a),
    "no base": lambda a: re.sub(r"(?<=\d)_\{?(\d)\}?", "", a),
    "other letter": lambda a: re.sub(r"^\\text\{(\(?)([A-D])(\)?)\}$", lambda m: "\\text{(" + chr(ord(m.group(2)) + 1) + ")}", a),
    "other word": lambda a: re.sub(r"^(\\text|\\mbox)\{(\w)(\w+)\}$", r"\1{\2\2\3}", a),
    "letters in another order": lambda a: re.sub(r"^(\\text|\\mbox)\{(\w)(\w)(\w+)\}$", r"\1{\3\2\4}", a),
    "other variable": lambda a: re.sub(r"(?<![a-zA-Z\\])x(?![a-z])", "t", a),
    "rows swapped": _in_matrix(lambda rows: _matrix(rows[::-1] if rows != rows[::-1] else rows)),
    "transposed": _in_matrix(lambda rows: _matrix([list(column) for column in zip(*rows, strict=True)])),
    "rows merged": _in_matrix(lambda rows: _matrix([[cell for row in rows for cell in row]])),
    "cells merged": _in_matrix(lambda rows: _matrix([["".join(row)] for row in rows])),
    "cells run together": _in_matrix(lambda rows: _matrix([["".join(row)] for row in rows], row="")),
    "digit into the next row": _in_matrix(lambda rows: re.sub(r"(\d) \\\\ (?=\d)", r" \\\\ \1", _matrix(rows), count=1)),
    "determinant": lambda a: a.replace("pmatrix", "vmatrix"),
}  # fmt: skip


def changes(rewritings: dict[str, Rewriting], gold: str) -> dict[str, str]:
    """What each rewriting makes of a gold answer, without those that say nothing of it."""
    found = {name: rewrite(gold) for name, rewrite in rewritings.items()}
    same = _without_blanks(gold)
    return {
        name: text for name, text in found.items() if text != gold and (rewritings is HARMLESS or _without_blanks(text) != same)
    }


def completions(answer: str) -> list[str]:
    """Replies that hold the answer: as JSON, as JSON with its backslashes unescaped, and in a reply that is no JSON."""
    whole = json.dumps({"reasoning": "r", "answer": answer})
    broken = json.dumps({"answer": answer}, ensure_ascii=False).replace('{"', r'{"reasoning": "\( x \)", "', 1)
    return [whole, broken]
