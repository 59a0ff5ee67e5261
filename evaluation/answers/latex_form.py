r"""The normal form of a final answer's LaTeX: `\dfrac12`, `1/2` and `0.5` come out as `\frac{1}{2}`, whatever stands around them.

A small reader of LaTeX: arguments are taken as TeX takes them (`\frac 34`, `\sqrt2`), brackets and matrices are nested, and what only
changes the look is left out. It does no algebra: terms and factors stay in their order. Time and depth are bounded.
"""

from __future__ import annotations

import re

from evaluation.answers.latex_terms import FUNCTIONS, NUMBER, commands, fraction, group_content, settled, split_at_commas

MAX_DEPTH = 24

_TOKEN = re.compile(r"\\\\|\\[a-zA-Z]+\*?|\\.|[0-9]+(?:\.[0-9]+)?|\.[0-9]+|[a-zA-Z]+|\s+|[<>!]=|.", re.DOTALL)
_SPACES = frozenset([r"\,", r"\;", r"\:", r"\>", r"\ ", "~"]) | commands("quad qquad enspace thinspace newline")
_UNSEEN = frozenset([r"\!", r"\(", r"\)", r"\[", r"\]"]) | commands(
    "displaystyle textstyle scriptstyle limits nolimits left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr"
    " rm bf it strut mathstrut hline"
)
_SKIPPED = commands("phantom hphantom vphantom hspace hspace* label tag")  # with their argument
_FONTS = commands(
    "text mbox hbox mathrm textrm textbf mathbf textit mathit textnormal texttt mathsf textsf emph boldsymbol bm bold operatorname"
    " operatorname* mathop mathord ensuremath fbox boxed"
)
_FRACTIONS = dict.fromkeys(commands("frac dfrac tfrac cfrac sfrac nicefrac"), r"\frac")
_FRACTIONS |= dict.fromkeys(commands("binom dbinom tbinom"), r"\binom")
_INFIX = {r"\over": r"\frac", r"\choose": r"\binom"}
_ACCENTS = commands(
    "overline bar hat widehat vec tilde widetilde underline dot ddot overrightarrow mathbb mathcal mathfrak mathscr"
)
_SAME = {
    r"\leq": r"\le", r"\leqslant": r"\le", "<=": r"\le", r"\geq": r"\ge", r"\geqslant": r"\ge", ">=": r"\ge", r"\neq": r"\ne",
    "!=": r"\ne", r"\lt": "<", r"\gt": ">", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(",
    r"\rparen": ")", r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\mid": "|", r"\ast": r"\cdot", "*": r"\cdot", r"\colon": ":",
    r"\dots": r"\ldots", r"\cdots": r"\ldots", r"\varnothing": r"\emptyset", r"\land": r"\wedge", r"\to": r"\rightarrow",
    r"\div": "/", r"\/": "/", r"\i": "i", r"\imath": "i", r"\prime": "'", r"\And": "&", r"\cr": r"\\", r"\tabularnewline": r"\\",
}  # fmt: skip
# What plain text calls as LaTeX does, and otherwise.
_WORDS = {command[1:]: command for command in FUNCTIONS | commands("pi theta sqrt infty")}
_WORDS |= dict.fromkeys(["infinity", "Infinity", "inf", "oo"], r"\infty") | {"and": ",", "or": ","}
_OPENING, _CLOSING = frozenset(["(", "[", r"\{"]), frozenset([")", "]", r"\}"])
# A matrix is what its rows are: in parentheses, square brackets or none. `|` around it is its determinant.
_MATRICES = frozenset(["matrix", "pmatrix", "bmatrix", "smallmatrix", "psmallmatrix", "bsmallmatrix", "array"])
_DETERMINANTS = frozenset(["vmatrix", "vsmallmatrix"])
# A row break that lost one of its backslashes to JSON, in a matrix that has no other: `1 \ 2`, `1 \2`, `1 \-2`, `a \b`.
_DAMAGED_BREAK = re.compile(r"\\(?:[\s0-9.\-]|[a-zA-Z])")


class TooDeepError(ValueError):
    """The text is nested more deeply than any final answer."""


def form(text: str) -> str:
    """The text in normal form, itself LaTeX.

    Raises:
        TooDeepError: where it is nested too deeply.
    """
    reader = _Reader(text)
    atoms: list[str] = []
    while reader.tokens:
        atoms += reader.sequence(frozenset())
        if reader.tokens:  # a brace that closes nothing
            reader.tokens.pop()
    return settled(atoms)


class _Reader:
    """Reads tokens, next one last in `tokens`, into atoms: texts that are one thing each, in normal form."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)[::-1]
        self._damaged_breaks = "\\\\" not in text
        self._depth = 0
        self._in_matrix = 0

    def sequence(self, stops: frozenset[str]) -> list[str]:
        """Atoms up to one of the stops or a closing brace; these stay unread."""
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
                above, below = settled(atoms), settled(self.sequence(stops))
                atoms = [fraction(_INFIX[token], above, below)]
                continue
            new = self._atoms(token)
            if atoms and new and NUMBER.fullmatch(atoms[-1]) and NUMBER.fullmatch(new[0]):
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
        elif self._in_matrix and token == r"\newline":
            self.tokens[-1] = "\\\\"
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
            above, below = settled(self._argument()), settled(self._argument())
            return [fraction(_FRACTIONS[token], above, below)]
        if token == r"\sqrt":
            return [self._root()]
        if token in _ACCENTS:
            return [f"{token}{{{settled(self._argument())}}}"]
        if token in ("^", "_"):
            return [f"{token}{{{settled(self._script())}}}"]
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
        content = settled(atoms)
        if (opening, closing) == (r"\{", r"\}") and not any(mark in content for mark in ("|", ":", r"\ldots")):
            content = ",".join(sorted(split_at_commas(content)))  # a set has no order
        return [f"{opening}{content}{closing}"]

    def _argument(self) -> list[str]:
        """The next argument as TeX takes it: a group in braces, a command, or a single character."""
        self._skip_blanks()
        if not self.tokens or self.tokens[-1] in ("}", "&", "\\\\"):
            return []
        token = self._next()
        if NUMBER.fullmatch(token) or (token.isalpha() and token.isascii()):
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
        if self.tokens and NUMBER.fullmatch(self.tokens[-1]):
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
            degree = f"[{settled(self.sequence(_CLOSING))}]"
            if self.tokens and self.tokens[-1] in _CLOSING:
                self.tokens.pop()
        content = settled(self._argument())
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
            rows[-1].append(settled(self.sequence(stops)))
            if not self.tokens:
                break
            token = self._next()
            if token == r"\end":
                self._raw_argument()
                break
            if token == "\\\\":
                rows.append([])
                if self.tokens and self.tokens[-1] == "*":  # a break without a new page
                    self.tokens.pop()
                after = self.tokens[-5:][::-1]
                blank = bool(after) and after[0].isspace()
                if re.fullmatch(r"\[[0-9.]+[a-z]{2}\]", "".join(after[blank : blank + 4])):  # `\\[4pt]`, `\\ [4pt]`
                    del self.tokens[-4 - blank :]
        self._in_matrix -= 1
        rows = [row for row in rows if row != [""]] or [[""]]  # a break too many makes no row
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
