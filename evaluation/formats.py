"""Shows numbers, durations and foreign text to people: in the terminal, in the report and in Prefect's tables."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence

NONE = "–"
# Invisible, but needed by scripts and emoji; shown as they are.
_JOINERS = "\u200c\u200d"
# All but ASCII that is always shown as it is: most of a page is that.
_NOT_PLAIN = re.compile(r"[^ -~\n\t]")


def number(value: float | None, digits: int = 1) -> str:
    """`84.4`; a dash for None."""
    return NONE if value is None else _minus(f"{round(value, digits) + 0.0:.{digits}f}")


def signed(value: float | None, digits: int = 1) -> str:
    """`+64.1`, `−3.0`; 0 has no sign, and None is a dash."""
    if value is None:
        return NONE
    rounded = round(value, digits)
    return _minus(f"{rounded:+.{digits}f}") if rounded else f"{0:.{digits}f}"


def interval(ci: Sequence[float] | None, digits: int = 1, *, with_sign: bool = False) -> str:
    """`[55.7, 72.5]`; empty where there is none."""
    if ci is None:
        return ""
    form = signed if with_sign else number
    return f"[{form(ci[0], digits)}, {form(ci[1], digits)}]"


def difference(delta: float | None, ci: Sequence[float] | None) -> str:
    """`+64.1 [+55.7, +72.5]`."""
    return f"{signed(delta)} {interval(ci, with_sign=True)}".rstrip()


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `38 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds is None:
        return NONE
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def visible(text: str) -> str:
    """The text with its invisible characters made visible; line feeds and tabs stay.

    Control characters become their pictures (`␀`, `␛`); other invisible ones, those that reverse the reading direction among
    them, and halves of surrogate pairs, which no UTF-8 file can hold, become `⟨U+202E⟩`.
    """
    return _NOT_PLAIN.sub(lambda found: _visible_character(found[0]), text)


def escaped(text: str) -> str:
    """JSON with an escape for every character that `visible` would change: it means the same."""
    return _NOT_PLAIN.sub(
        lambda found: found[0] if _visible_character(found[0]) == found[0] else json.dumps(found[0])[1:-1], text
    )


def cut(text: str, max_characters: int, max_lines: int) -> tuple[str, int]:
    """The text's beginning, and how many characters were left out."""
    # Only the beginning is split into lines: a text may have megabytes.
    beginning = "\n".join(text[:max_characters].split("\n")[:max_lines])
    return beginning, len(text) - len(beginning)


def _visible_character(character: str) -> str:
    if character in "\n\t" or character in _JOINERS:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"⟨U+{code:04X}⟩"
    return character


def _minus(text: str) -> str:
    return text.replace("-", "−")
