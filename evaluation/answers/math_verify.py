"""Symbolic equality of two answers by math-verify (https://github.com/huggingface/Math-Verify), in a killable child process.

Only its LaTeX reader is used: its other reader hands plain expressions to SymPy's `parse_expr`, which evaluates them as Python. It gets
the answers in normal form (`evaluation.answers.latex`), where decimals are fractions: by itself it compares decimals to six places, so
that `0.0000672` would equal `0.000067`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from evaluation.answers import latex
from evaluation.answers.latex_terms import rational
from evaluation.sandbox import BoundedCalls

LIMIT_S = 5.0

_COMMAND = re.compile(r"\\(?:begin|end)\{\w+\}|\\[a-zA-Z]+")
# Words, numerals of another base, numbers side by side, and times of day.
_NO_ALGEBRA = re.compile(r"[a-zA-Z]{4}|[0-9]_\{|[0-9] [0-9]|[0-9]:[0-9]{2}(?![0-9])")


class Verifier:
    """Compares answers one by one; a context manager, at whose end the child process ends."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._calls = BoundedCalls("evaluation.answers.math_verify:make_comparison", {}, limit_s=limit_s)

    def equal(self, gold: str, answer: str) -> bool | None:
        """Whether the answers, in LaTeX or plain, are symbolically equal; None where the comparison was killed or failed.

        Answers of one form are equal without algebra. Texts that are longer than any final answer are unequal at once, and so are
        those of different forms in which there is nothing to compute with.
        """
        if len(answer) > latex.MAX_CHARACTERS:
            return False
        if latex.equivalent(answer, gold) or _same_percentage(answer, gold):
            return True
        forms = latex.normalized(gold), latex.normalized(answer)
        if not all(map(_is_algebra, forms)) or _differ_by_notation(*forms):
            return False
        result = self._calls([form.replace(",", ", ") for form in forms])  # `1,234` is a list here
        return None if result is None else bool(result)

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.close()


def make_comparison() -> Callable[[list[str]], bool]:
    """In the child: a function of a pair of answers, gold first."""
    import logging

    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # it warns that timeouts are off: the process has one
    # Its removal of units takes the variable of `2t` for one; units are gone already.
    targets = [
        LatexExtractionConfig(normalization_config=NormalizationConfig(units=False, malformed_operators=True, nits=True))
    ]

    def compare(pair: list[str]) -> bool:
        gold, answer = (parse(f"${text}$", targets, parsing_timeout=None) for text in pair)
        return bool(verify(gold, answer, timeout_seconds=None))

    return compare


def _is_algebra(form: str) -> bool:
    """False for words, numerals of another base and numbers side by side: the library takes them for products and sums."""
    return not _NO_ALGEBRA.search(_COMMAND.sub("", form))


def _differ_by_notation(left: str, right: str) -> bool:
    r"""Whether `R` stands against `r`, or a set against a pair, which the library takes for the same."""
    starts = {left.removeprefix("\\")[:1], right.removeprefix("\\")[:1]}
    return left.casefold() == right.casefold() or starts == {"(", "{"}


def _same_percentage(answer: str, gold: str) -> bool:
    r"""Whether one is `20\%` and the other `0.2`; `20` has the form of the former."""
    if ("%" in answer) == ("%" in gold):
        return False
    percent, plain = (answer, gold) if "%" in answer else (gold, answer)
    numbers = rational(latex.normalized(percent)), rational(latex.normalized(plain))
    return numbers[0] is not None and numbers[1] is not None and numbers[0] == 100 * numbers[1]
