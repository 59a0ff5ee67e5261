"""What the fields of a record must be: a check that says which one isn't, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from evaluation.records import Record

_SHOWN = 60


class Field(NamedTuple):
    """A rule of one field: its words for error messages, and the check. `None` stands for a field that isn't there."""

    words: str
    holds: Callable[[object], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _or_none(field: Field) -> Field:
    return Field(f"{field.words} | None", lambda value: value is None or field.holds(value))


def is_number(value: object) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


TEXT = Field("str", _is_text)
TEXT_OR_NONE = _or_none(TEXT)
FULL_TEXT = Field("a text that is not empty", lambda value: isinstance(value, str) and bool(value.strip()))
COUNT = Field("a whole number from 0", _is_count)
COUNT_OR_NONE = Field("a whole number from 0, or None", lambda value: value is None or _is_count(value))
WHOLE = Field("a whole number", lambda value: type(value) is int)
FLAG = Field("true or false", lambda value: isinstance(value, bool))
TEXTS = Field("a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value)))
MAPPINGS = Field("a list of mappings", lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value))


def one_of(*known: str) -> Field:
    return Field(f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known)


def mapping_of(words: str, holds: Callable[[object], bool]) -> Field:
    """A mapping whose values all hold a rule."""
    return Field(f"a mapping to {words}", lambda value: isinstance(value, dict) and all(map(holds, value.values())))


def fault(record: Record, required: Mapping[str, Field], optional: Mapping[str, Field] | None = None) -> str | None:
    """What is wrong with every field that isn't as it must be: `have id as str, got 5, and answer as str, got None`; None where nothing is.

    Args:
        optional: Rules of fields that a record may leave out; where it has them, they hold.
    """
    present = {name: rule for name, rule in (optional or {}).items() if name in record}
    found = []
    for name, rule in {**required, **present}.items():
        value = record.get(name)
        if name not in record and rule.holds(None):
            found.append(f"{name} as {rule.words}, got no such field")
        elif not rule.holds(value):
            found.append(f"{name} as {rule.words}, got {shown(value)}")
    return f"have {', and '.join(found)}" if found else None


def shown(value: object) -> str:
    """The beginning of a value, for error messages."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
