"""Arithmetic that a model wrote, evaluated without executing anything and in bounded time.

Python's parser reads the text, so numbers and precedence mean what they mean in Python. Upstream's scorers hand such text to `eval`.
Expressions of numbers give the same value here (`6/2 or 3`, `round(22/7)`, `5//2`, `~3 + 1/2`); nothing else is evaluated. These have a
value upstream and none here, where the text's first number counts instead: texts, lists and sets (`str(31/2)`,
`3/4 in [1]`), `is` (`7 is 3/4`), conditions (`1/2 if 1 else 2`), and functions other than `abs`, `float`, `int` and `round` of one value.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable

MAX_CHARACTERS = 1000
MAX_BITS = 1 << 14

_BINARY: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.RShift: operator.rshift,
}
_UNARY: dict[type, Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,  # type: ignore[dict-item]  # of a fraction it raises TypeError
}
_COMPARISONS: dict[type, Callable[[float, float], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[[float], float]] = {"abs": abs, "float": float, "int": int, "round": round}


class ArithmeticTextError(ValueError):
    """The text is no arithmetic, is too large, or has no real value."""


def evaluate(text: str) -> float:
    """The value of an expression such as `(3 + 4) / 2 ** 3`.

    Raises:
        ArithmeticTextError: where it has none.
    """
    if len(text) > MAX_CHARACTERS:
        raise ArithmeticTextError(f"text must have at most {MAX_CHARACTERS} characters, got {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of some odd numbers, such as `1e`.
            tree = ast.parse(text.lstrip(" \t"), mode="eval")
        return float(_value(tree.body))
    # TypeError: bits of a fraction, as in `2 ^ (1/2)`.
    except (SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ArithmeticTextError(f"text must have a value, got {text[:60]!r}: {type(error).__name__}") from error


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        unary: int | float = _UNARY[type(node.op)](_value(node.operand))
        return unary
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _power(_value(node.left), _value(node.right))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift):
        return _shifted(_value(node.left), _value(node.right))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        binary: int | float = _BINARY[type(node.op)](_value(node.left), _value(node.right))
        return binary
    if isinstance(node, ast.BoolOp):
        return _first_decisive(node)
    if isinstance(node, ast.Compare) and all(type(op) in _COMPARISONS for op in node.ops):
        values = [_value(part) for part in (node.left, *node.comparators)]
        holds = (_COMPARISONS[type(op)](a, b) for op, a, b in zip(node.ops, values[:-1], values[1:], strict=True))
        return all(holds)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and len(node.args) == 1:
        called: int | float = _FUNCTIONS[node.func.id](_value(node.args[0]))
        return called
    raise ArithmeticTextError(f"text must hold numbers and arithmetic alone, got {type(node).__name__}")


def _first_decisive(node: ast.BoolOp) -> int | float:
    """As in Python, `or` gives its first true operand, `and` its first false one, and both else the last; the rest is not evaluated."""
    decides = isinstance(node.op, ast.Or)
    for operand in node.values[:-1]:
        value = _value(operand)
        if bool(value) is decides:
            return value
    return _value(node.values[-1])


def _power(base: int | float, exponent: int | float) -> int | float:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise ArithmeticTextError(f"powers must have at most {MAX_BITS} bits, got a base of {base.bit_length()}, to {exponent}")
    value = base**exponent
    if isinstance(value, complex):
        raise ArithmeticTextError("powers must be real, got a root of a negative number")
    return value


def _shifted(value: int | float, places: int | float) -> int:
    if not (isinstance(value, int) and isinstance(places, int)):
        raise ArithmeticTextError(f"shifts must be of whole numbers, got {value} shifted by {places}")
    if value.bit_length() + places > MAX_BITS:
        raise ArithmeticTextError(f"shifts must have at most {MAX_BITS} bits, got {value.bit_length()} shifted by {places}")
    return value << places
