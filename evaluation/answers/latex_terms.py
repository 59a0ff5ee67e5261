r"""Terms of a final answer in normal form: numbers, mixed numbers, quotients and signs. No algebra: terms and factors keep their order.

An atom is a text that is one thing, in normal form: a number, a letter, a command with its arguments, a bracket with its content.
"""

from __future__ import annotations

import re
from fractions import Fraction

from evaluation.answers.latex_text import as_latex

_MAX_NUMBER_CHARACTERS = 300
_INTEGER = re.compile("[0-9]{1,300}")
_RATIONAL = re.compile(r"(-?)(?:([0-9]+)|\\frac\{(-?[0-9]+)\}\{([0-9]+)\})")
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")


def commands(names: str) -> frozenset[str]:
    """LaTeX's commands of these names."""
    return frozenset(f"\\{name}" for name in names.split())


FUNCTIONS = commands("sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln exp")
_SEPARATORS = frozenset(
    [",", ";", "|", "=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\cup", r"\cap", r"\setminus", r"\approx"]
)
_SIGNS = frozenset(["+", "-", r"\pm", r"\mp"])
_TIMES = frozenset([r"\cdot", r"\times"])


def rational(text: str) -> Fraction | None:
    """The number that a text in normal form is; None for anything else."""
    match = _RATIONAL.fullmatch(text) if len(text) <= _MAX_NUMBER_CHARACTERS else None
    if match is None:
        return None
    sign, whole, above, below = match.groups()
    if whole is None and int(below) == 0:
        return None
    return (Fraction(int(whole)) if whole is not None else Fraction(int(above), int(below))) * (-1 if sign else 1)


def group_content(atom: str) -> str | None:
    """What an atom in parentheses holds, where that is one value."""
    if not (atom.startswith("(") and atom.endswith(")")):
        return None
    depth = 0
    for position, character in enumerate(atom):
        depth += {"(": 1, ")": -1, "[": 1, "]": -1}.get(character, 0)
        if depth == 0 and position < len(atom) - 1:
            return None
        if character in ",;" and depth == 1:
            return None
    return atom[1:-1]


def settled(atoms: list[str]) -> str:
    """The text of atoms: numbers, quotients and signs of each part between commas, relations and the like in normal form."""
    parts: list[str] = []
    part: list[str] = []
    among_others = "," in atoms
    for atom in [*atoms, None]:
        if atom is not None and atom not in _SEPARATORS:
            part.append(atom)
            continue
        parts.append(_part(part, among_others))
        part = []
        if atom is not None and not (atom == "," and parts[-1] == "" and len(parts) > 1 and parts[-2] == ","):  # `3, and 4`
            parts.append(atom)
    return _joined(parts)


def _part(atoms: list[str], among_others: bool = False) -> str:
    """A sum, its leading sign before everything; a number where it is one."""
    terms: list[str] = []
    term: list[str] = []
    for atom in [*atoms, None]:
        if atom is not None and atom not in _SIGNS:
            term.append(atom)
            continue
        if term:
            terms.append(_term(term))
            term = []
        if atom is not None:
            terms.append(atom)
    if terms[:1] == ["+"]:
        terms = terms[1:]
    if terms and (match := re.match(r"\\frac\{-([^{}+-]*|\\sqrt\{[^{}+-]*\})\}\{", terms[0])):
        terms[:1] = ["-", f"\\frac{{{match.group(1)}}}{{{terms[0][match.end() :]}"]
    elif len(terms) > 1 and terms[0] == "-" and (match := re.match(r"\\frac\{-([^{}+-]*)\}\{", terms[1])):
        terms[:2] = [f"\\frac{{{match.group(1)}}}{{{terms[1][match.end() :]}"]
    text = _joined(terms)
    number = None if among_others and re.fullmatch("0[0-9]{2}", text) else rational(text)  # `(1,000)` is not `(1,0)`
    return text if number is None else as_latex(number)


def _term(atoms: list[str]) -> str:
    """A product: mixed numbers and quotients become fractions, decimals too, and a sign of multiplication after a number goes."""
    atoms = _with_mixed_numbers([atom for atom in atoms if atom])
    atoms = [as_latex(Fraction(atom)) if _is_decimal(atom) else atom for atom in atoms]
    if atoms.count("/") == 1:
        slash = atoms.index("/")
        above, below = atoms[:slash], atoms[slash + 1 :]
        single = len(below) == 1 or (len(below) == 2 and below[1].startswith("^"))
        functions = any(atom in FUNCTIONS for atom in atoms)
        if above and single and not functions and " " not in above and below[0] not in _TIMES:
            atoms = [fraction(r"\frac", _without_group(above), _without_group(below))]
    kept: list[str] = []
    for n, atom in enumerate(atoms):
        following = atoms[n + 1] if n + 1 < len(atoms) else ""
        if atom in _TIMES and kept and rational(kept[-1]) is not None and following:
            if not re.match(r"[0-9]|\\frac", following):
                continue
            atom = r"\cdot"
        group = group_content(atom)
        if group is not None and n + 1 == len(atoms) and not re.search(r"[+\-/,]", group) and _ends_with_function(kept):
            atom = group
        kept.append(atom)
    return _joined(kept)


def _with_mixed_numbers(atoms: list[str]) -> list[str]:
    r"""A whole number before a proper fraction, as in `1\frac{1}{2}` and `1 1/2`, is added to it."""
    found: list[str] = []
    rest = atoms[::-1]
    while rest:
        atom = rest.pop()
        if _INTEGER.fullmatch(atom) and (not found or found[-1] in _TIMES):
            length, part = _proper_fraction(rest[:-5:-1])
            if length:
                del rest[-length:]
                atom = as_latex(int(atom) + part)
        found.append(atom)
    return found


def _proper_fraction(atoms: list[str]) -> tuple[int, Fraction]:
    """How many of the atoms, at most four, begin with a fraction between 0 and 1, and which; none where they don't."""
    length, value = 0, None
    if atoms and atoms[0].startswith(r"\frac"):
        length, value = 1, rational(atoms[0])
    elif (
        len(atoms) == 4 and (atoms[0], atoms[2]) == (" ", "/") and _INTEGER.fullmatch(atoms[1]) and _INTEGER.fullmatch(atoms[3])
    ):
        length, value = 4, rational(f"\\frac{{{atoms[1]}}}{{{atoms[3]}}}")
    return (length, value) if value is not None and 0 < value < 1 else (0, Fraction(0))


def fraction(command: str, above: str, below: str) -> str:
    """A fraction or another command of two arguments, as one atom; of numbers, in lowest terms."""
    numbers = rational(above), rational(below)
    if command == r"\frac" and numbers[0] is not None and numbers[1]:
        value = numbers[0] / numbers[1]
        # With its sign inside: nothing that stands before it is subtracted from.
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    return f"{command}{{{above}}}{{{below}}}"


def _is_decimal(atom: str) -> bool:
    return "." in atom and len(atom) <= _MAX_NUMBER_CHARACTERS and NUMBER.fullmatch(atom) is not None


def _without_group(atoms: list[str]) -> str:
    group = group_content(atoms[0]) if len(atoms) == 1 else None
    return _part(atoms) if group is None else group


def _ends_with_function(atoms: list[str]) -> bool:
    last = next((atom for atom in reversed(atoms) if not atom.startswith(("^", "_"))), "")
    return last in FUNCTIONS


def split_at_commas(text: str) -> list[str]:
    """The parts between commas that stand in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _joined(atoms: list[str]) -> str:
    text: list[str] = []
    for atom in atoms:
        if text and re.match("[a-zA-Z]", atom) and re.search(r"\\[a-zA-Z]+$", text[-1]):
            text.append(" ")
        if atom:
            text.append(atom)
    return "".join(text)
