"""Arithmetic that a model wrote, evaluated without executing anything and in bounded time.

Python's parser reads the text, so numbers and precedence mean what they mean in Python; only numbers, + − * / ** and parentheses
are then evaluated, and powers only as far as their results stay small.
"""

from __future__ import annotations

import ast
import re
import warnings

MAX_CHARACTERS = 1000
MAX_BITS = 1 << 14

_ALLOWED = re.compile(r"[0-9_.eE+\-*/() \t]+")


class ArithmeticTextError(ValueError):
    """The text is no arithmetic, is too large, or has no real value."""


def evaluate(text: str) -> float:
    """The value of an expression such as `(3 + 4) / 2 ** 3`.

    Raises:
        ArithmeticTextError: where it has none.
    """
    if len(text) > MAX_CHARACTERS or not _ALLOWED.fullmatch(text):
        raise ArithmeticTextError(f"text must be at most {MAX_CHARACTERS} characters of arithmetic, got {text[:60]!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of some odd numbers, such as `1e`.
            tree = ast.parse(text.lstrip(" \t"), mode="eval")
        return float(_value(tree.body))
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ArithmeticTextError(f"text must have a value, got {text[:60]!r}: {type(error).__name__}") from error


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand)
        return value if isinstance(node.op, ast.UAdd) else -value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
    raise ArithmeticTextError(f"text must hold numbers, + - * / ** and parentheses alone, got {type(node).__name__}")


def _power(base: int | float, exponent: int | float) -> int | float:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise ArithmeticTextError(f"powers must have at most {MAX_BITS} bits, got a base of {base.bit_length()}, to {exponent}")
    value = base**exponent
    if isinstance(value, complex):
        raise ArithmeticTextError("powers must be real, got a root of a negative number")
    return value
