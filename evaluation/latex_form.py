r"""The one form of a final answer's LaTeX: `\dfrac12`, `1/2` and `0.5` come out as `\frac{1}{2}`, whatever stands around them.

A small reader of LaTeX: arguments are taken as TeX takes them (`\frac 34`, `\sqrt2`), brackets and matrices are nested, and what only
changes the look is left out. It does no algebra: terms and factors stay in their order. Time and depth are bounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

from evaluation.latex_text import as_latex

MAX_DEPTH = 24
_MAX_NUMBER_CHARACTERS = 300

_TOKEN = re.compile(r"\\\\|\\[a-zA-Z]+\*?|\\.|[0-9]+(?:\.[0-9]+)?|\.[0-9]+|[a-zA-Z]+|\s+|[<>!]=|.", re.DOTALL)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_INTEGER = re.compile("[0-9]{1,300}")
_RATIONAL = re.compile(r"(-?)(?:([0-9]+)|\\frac\{(-?[0-9]+)\}\{([0-9]+)\})")

_SPACES = frozenset([r"\,", r"\;", r"\:", r"\>", r"\ ", "~", r"\quad", r"\qquad", r"\newline", r"\enspace", r"\thinspace"])
_UNSEEN = frozenset(
    r"\! \displaystyle \textstyle \scriptstyle \limits \nolimits \left \right \middle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl"
    r" \biggr \Biggl \Biggr \rm \bf \it \( \) \[ \] \/ \strut \mathstrut \hline $".split()
)
_SKIPPED = frozenset([r"\phantom", r"\hphantom", r"\vphantom", r"\hspace", r"\hspace*", r"\label", r"\tag"])
_FONTS = frozenset(
    r"\text \mbox \hbox \mathrm \textrm \textbf \mathbf \textit \mathit \textnormal \texttt \mathsf \textsf \emph \boldsymbol \bm"
    r" \operatorname \operatorname* \mathop \mathord \ensuremath \fbox \boxed \bold".split()
)
_FRACTIONS = {
    r"\frac": r"\frac",
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"\sfrac": r"\frac",
    r"\nicefrac": r"\frac",
}
_FRACTIONS |= {r"\binom": r"\binom", r"\dbinom": r"\binom", r"\tbinom": r"\binom"}
_INFIX = {r"\over": r"\frac", r"\choose": r"\binom"}
_ACCENTS = frozenset(
    r"\overline \bar \hat \widehat \vec \tilde \widetilde \underline \dot \ddot \overrightarrow \mathbb \mathcal \mathfrak \mathscr".split()
)
_SAME = {
    r"\leq": r"\le", r"\leqslant": r"\le", "<=": r"\le", r"\geq": r"\ge", r"\geqslant": r"\ge", ">=": r"\ge", r"\neq": r"\ne",
    "!=": r"\ne", r"\lt": "<", r"\gt": ">", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(",
    r"\rparen": ")", r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\mid": "|", r"\ast": "*", r"\cdotp": r"\cdot", r"\colon": ":",
    r"\dots": r"\ldots", r"\cdots": r"\ldots", r"\varnothing": r"\emptyset", r"\land": r"\wedge", r"\to": r"\rightarrow",
    r"\div": "/", r"\i": "i", r"\imath": "i", r"\prime": "'", r"\And": "&", r"\cr": r"\\", r"\tabularnewline": r"\\",
}  # fmt: skip
_FUNCTIONS = frozenset("sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln exp".split())
_WORDS = {name: rf"\{name}" for name in (*_FUNCTIONS, "pi", "theta", "sqrt", "infty", "pm")}
_WORDS |= {"infinity": r"\infty", "inf": r"\infty", "oo": r"\infty", "Infinity": r"\infty", "U": r"\cup", "and": ",", "or": ","}
_OPENING, _CLOSING = frozenset(["(", "[", r"\{"]), frozenset([")", "]", r"\}"])
_SEPARATORS = frozenset(
    [",", ";", "|", "=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\cup", r"\cap", r"\setminus", r"\approx"]
)
_SIGNS = frozenset(["+", "-", r"\pm", r"\mp"])
_TIMES = frozenset(["*", r"\cdot", r"\times"])
# A matrix is what its rows are: in parentheses, square brackets or none. `|` around it is its determinant.
_MATRICES = frozenset("matrix pmatrix bmatrix smallmatrix psmallmatrix bsmallmatrix array".split())
_DETERMINANTS = frozenset("vmatrix vsmallmatrix".split())
# A row break that lost one of its backslashes to JSON, in a matrix that has no other: `1 \ 2`, `1 \2`, `1 \-2`, `a \b`.
_DAMAGED_BREAK = re.compile(r"\\(?:[\s0-9.\-]|[a-zA-Z])")


class TooDeepError(ValueError):
    """The text is nested more deeply than any final answer."""


def form(text: str) -> str:
    """The text in its one form, itself LaTeX.

    Raises:
        TooDeepError: where it is nested too deeply.
    """
    reader = _Reader(text)
    atoms: list[str] = []
    while reader.tokens:
        atoms += reader.sequence(frozenset())
        if reader.tokens:  # a brace that closes nothing
            reader.tokens.pop()
    return _settled(atoms)


def rational(text: str) -> Fraction | None:
    """The number that a text in the one form is; None for anything else."""
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
        if character == "," and depth == 1:
            return None
    return atom[1:-1]


class _Reader:
    """Reads tokens, next one last in `tokens`, into atoms: texts that are one thing each, in the one form."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)[::-1]
        self._damaged_breaks = "\\\\" not in text
        self._depth = 0
        self._in_matrix = 0

    def sequence(self, stops: frozenset[str]) -> list[str]:
        """Atoms up to one of the stops, or a brace that closes, which stay unread."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooDeepError(f"text must be nested at most {MAX_DEPTH} deep")
        atoms: list[str] = []
        gap = False
        while self.tokens and self._peek() not in stops and self.tokens[-1] != "}":
            token = self._next()
            if token.isspace() or token in _SPACES:
                gap = True
                continue
            if token in _UNSEEN:
                if token in (r"\left", r"\right") and self.tokens and self.tokens[-1] == ".":
                    self.tokens.pop()
                continue
            if token in _SKIPPED:
                self._argument()
                continue
            if token in _INFIX:
                above, below = _settled(atoms), _settled(self.sequence(stops))
                atoms = [_fraction(_INFIX[token], above, below)]
                continue
            new = self._atoms(token)
            if atoms and new and _NUMBER.fullmatch(atoms[-1]) and _NUMBER.fullmatch(new[0]):
                # Digits side by side are one number; a blank between them makes two.
                if gap or "." in new[0]:
                    atoms.append(" ")
                else:
                    new[0] = atoms.pop() + new[0]
            atoms += new
            gap = False
        self._depth -= 1
        return atoms

    def _peek(self) -> str:
        token = self.tokens[-1]
        if self._in_matrix and self._damaged_breaks and len(token) == 2 and _DAMAGED_BREAK.fullmatch(token):
            self.tokens[-1:] = [token[1], "\\\\"]
        return _SAME.get(self.tokens[-1], self.tokens[-1])

    def _next(self) -> str:
        token = self.tokens.pop()
        return _SAME.get(token, token)

    def _atoms(self, token: str) -> list[str]:
        """What begins with the token, which was read; several atoms where braces or a font hold several."""
        if token == "{":
            return self._braced()
        if token in _OPENING:
            return self._bracketed(token)
        if token in _FONTS:
            return self._argument()
        if token in _FRACTIONS:
            above, below = _settled(self._argument()), _settled(self._argument())
            return [_fraction(_FRACTIONS[token], above, below)]
        if token == r"\sqrt":
            return [self._root()]
        if token in _ACCENTS:
            return [f"{token}{{{_settled(self._argument())}}}"]
        if token in ("^", "_"):
            return [f"{token}{{{_settled(self._script())}}}"]
        if token == r"\begin":
            return self._environment()
        if token.isalpha() and token.isascii():
            known = _WORDS.get(token)
            if known == r"\sqrt":
                return [self._root()]
            return [known] if known else list(token)
        return [token]

    def _braced(self) -> list[str]:
        atoms = self.sequence(frozenset())
        if self.tokens:
            self.tokens.pop()
        return atoms

    def _bracketed(self, opening: str) -> list[str]:
        """A bracket with what it holds as one atom, whichever closes it: intervals are half open."""
        stops = _CLOSING | {"&", "\\\\", r"\end"} if self._in_matrix else _CLOSING
        atoms = self.sequence(stops)
        if not self.tokens or self._peek() not in _CLOSING:
            return [opening, *atoms]
        closing = self._next()
        if len(atoms) == 1 and atoms[0].startswith(r"\begin{pmatrix}") and (opening, closing) in (("(", ")"), ("[", "]")):
            return atoms
        content = _settled(atoms)
        if (opening, closing) == (r"\{", r"\}") and not any(mark in content for mark in ("|", ":", r"\ldots")):
            content = ",".join(sorted(_split(content)))  # a set has no order
        return [f"{opening}{content}{closing}"]

    def _argument(self) -> list[str]:
        """The next argument as TeX takes it: a group in braces, a command, or a single character."""
        self._skip_blanks()
        if not self.tokens or self.tokens[-1] in ("}", "&", "\\\\"):
            return []
        token = self._next()
        if _NUMBER.fullmatch(token) or (token.isalpha() and token.isascii()):
            if len(token) > 1:
                self.tokens.append(token[1:])
            return [token[0]]
        self._depth += 1  # `\frac\frac\frac…` nests without braces
        if self._depth > MAX_DEPTH:
            raise TooDeepError(f"text must be nested at most {MAX_DEPTH} deep")
        atoms = self._atoms(token)
        self._depth -= 1
        return atoms

    def _script(self) -> list[str]:
        """An exponent or index: whole numbers, signs and parentheses belong to it as in plain text, `x^10`, `x^-1`, `2^(n+1)`."""
        self._skip_blanks()
        sign = ["-"] if self.tokens and self.tokens[-1] == "-" else []
        if sign:
            self.tokens.pop()
        if self.tokens and _NUMBER.fullmatch(self.tokens[-1]):
            return [*sign, self.tokens.pop()]
        atoms = self._argument()
        if len(atoms) == 1 and group_content(atoms[0]) is not None:
            atoms = [group_content(atoms[0]) or ""]
        return [*sign, *atoms]

    def _root(self) -> str:
        self._skip_blanks()
        degree = ""
        if self.tokens and self.tokens[-1] == "[":
            self.tokens.pop()
            degree = f"[{_settled(self.sequence(_CLOSING))}]"
            if self.tokens and self.tokens[-1] in _CLOSING:
                self.tokens.pop()
        content = _settled(self._argument())
        group = group_content(content)
        return f"\\sqrt{degree if degree != '[2]' else ''}{{{content if group is None else group}}}"

    def _environment(self) -> list[str]:
        name = "".join(self._raw_argument())
        if name == "array":
            self._raw_argument()  # the columns
        rows: list[list[str]] = [[]]
        self._in_matrix += 1
        stops = frozenset(["&", "\\\\", r"\end"])
        while True:
            rows[-1].append(_settled(self.sequence(stops)))
            if not self.tokens:
                break
            token = self._next()
            if token == r"\end":
                self._raw_argument()
                break
            if token == "\\\\":
                rows.append([])
                if re.fullmatch(r"\[[0-9.]+[a-z]{2}\]", "".join(self.tokens[-1:-5:-1])):  # `\\[4pt]`
                    del self.tokens[-4:]
        self._in_matrix -= 1
        if rows[-1] == [""] and len(rows) > 1:
            rows.pop()
        shown = name if name not in _MATRICES | _DETERMINANTS else "pmatrix"
        matrix = f"\\begin{{{shown}}}" + r" \\ ".join(" & ".join(row) for row in rows) + f"\\end{{{shown}}}"
        return ["|", matrix, "|"] if name in _DETERMINANTS else [matrix]

    def _raw_argument(self) -> list[str]:
        self._skip_blanks()
        if not self.tokens or self.tokens[-1] != "{":
            return []
        self.tokens.pop()
        found: list[str] = []
        while self.tokens and (token := self.tokens.pop()) != "}":
            found.append(token)
        return found

    def _skip_blanks(self) -> None:
        while self.tokens and (self.tokens[-1].isspace() or self.tokens[-1] in _SPACES or self.tokens[-1] in _UNSEEN):
            self.tokens.pop()


def _settled(atoms: list[str]) -> str:
    """The text of atoms: numbers, quotients and signs of each part between commas, relations and the like in their one form."""
    parts: list[str] = []
    part: list[str] = []
    for atom in [*atoms, None]:
        if atom is not None and atom not in _SEPARATORS:
            part.append(atom)
            continue
        parts.append(_part(part))
        part = []
        if atom is not None and not (atom == "," and parts[-1] == "" and len(parts) > 1 and parts[-2] == ","):  # `3, and 4`
            parts.append(atom)
    return _joined(parts)


def _part(atoms: list[str]) -> str:
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
    number = rational(text)
    return text if number is None else as_latex(number)


def _term(atoms: list[str]) -> str:
    """A product: mixed numbers and quotients become fractions, decimals too, and a sign of multiplication after a number goes."""
    atoms = _with_mixed_numbers([atom for atom in atoms if atom])
    atoms = [as_latex(Fraction(atom)) if _is_decimal(atom) else atom for atom in atoms]
    if atoms.count("/") == 1:
        slash = atoms.index("/")
        above, below = atoms[:slash], atoms[slash + 1 :]
        single = len(below) == 1 or (len(below) == 2 and below[1].startswith("^"))
        functions = any(atom[1:] in _FUNCTIONS for atom in atoms)
        if above and single and not functions and " " not in above and below[0] not in _TIMES:
            atoms = [_fraction(r"\frac", _without_group(above), _without_group(below))]
    kept: list[str] = []
    for n, atom in enumerate(atoms):
        following = atoms[n + 1] if n + 1 < len(atoms) else ""
        if (
            atom in _TIMES
            and kept
            and rational(kept[-1]) is not None
            and following
            and not re.match(r"[0-9]|\\frac", following)
        ):
            continue
        group = group_content(atom)
        if group is not None and n + 1 == len(atoms) and not re.search(r"[+\-/,]", group) and _ends_with_function(kept):
            atom = group
        kept.append(atom)
    return _joined(kept)


def _with_mixed_numbers(atoms: list[str]) -> list[str]:
    r"""A whole number before a proper fraction, as in `1\frac{1}{2}` and `1 1/2`, is added to it."""
    found: list[str] = []
    n = 0
    while n < len(atoms):
        first = not found or found[-1] in _TIMES
        if first and _INTEGER.fullmatch(atoms[n]):
            rest = atoms[n + 1 :]
            fraction, length = None, 0
            if rest and rest[0].startswith(r"\frac"):
                fraction, length = rational(rest[0]), 1
            elif (
                len(rest) >= 4
                and rest[0] == " "
                and rest[2] == "/"
                and _INTEGER.fullmatch(rest[1])
                and _INTEGER.fullmatch(rest[3])
            ):
                fraction, length = rational(f"\\frac{{{rest[1]}}}{{{rest[3]}}}"), 4
            if fraction is not None and 0 < fraction < 1:
                found.append(as_latex(int(atoms[n]) + fraction))
                n += 1 + length
                continue
        found.append(atoms[n])
        n += 1
    return found


def _fraction(command: str, above: str, below: str) -> str:
    numbers = rational(above), rational(below)
    if command == r"\frac" and numbers[0] is not None and numbers[1]:
        value = numbers[0] / numbers[1]
        sign = "-" if value < 0 else ""
        # As one thing: what stands before it must not be subtracted from.
        return f"\\frac{{{sign}{abs(value.numerator)}}}{{{value.denominator}}}"
    return f"{command}{{{above}}}{{{below}}}"


def _is_decimal(atom: str) -> bool:
    return "." in atom and len(atom) <= _MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(atom) is not None


def _without_group(atoms: list[str]) -> str:
    group = group_content(atoms[0]) if len(atoms) == 1 else None
    return _part(atoms) if group is None else group


def _ends_with_function(atoms: list[str]) -> bool:
    last = next((atom for atom in reversed(atoms) if not atom.startswith(("^", "_"))), "")
    return last[1:] in _FUNCTIONS


def _split(text: str) -> list[str]:
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
