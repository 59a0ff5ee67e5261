"""Symbolic equality of two answers by math-verify (https://github.com/huggingface/Math-Verify), in a killable child process.

Only its LaTeX reader is used: its other one hands plain expressions to SymPy's `parse_expr`, which evaluates them as Python.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from evaluation import latex
from evaluation.bounded import BoundedCalls

LIMIT_S = 5.0


class Verifier:
    """Compares answers one by one; a context manager, at whose end the child process ends."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._calls = BoundedCalls("evaluation.math_verification:make_comparison", {}, limit_s=limit_s)

    def equal(self, gold: str, answer: str) -> bool | None:
        """Whether the answers, in LaTeX or plain, are symbolically equal; None where the comparison was killed or failed.

        Texts that are longer than any final answer are unequal at once.
        """
        if len(answer) > latex.MAX_CHARACTERS:
            return False
        result: bool | None = self._calls([latex.cleaned(gold), latex.cleaned(answer)])
        return result

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._calls.close()


def make_comparison() -> Callable[[list[str]], bool]:
    """In the child: a function of a pair of answers, gold first."""
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # it warns that timeouts are off: the process has one
    targets = [LatexExtractionConfig()]

    def compare(pair: list[str]) -> bool:
        gold, answer = (parse(f"${text}$", targets, parsing_timeout=None) for text in pair)
        return bool(verify(gold, answer, timeout_seconds=None))

    return compare
