"""Values and paths as people read them: no Python in what the terminal shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evaluation.formats import NONE, number


def in_words(value: object, leaf: Callable[[object], str] | None = None) -> str:
    """A setting or a result without brackets and quotes: `gsm8k, crux`, `limit 16, source sample`; a dash for none.

    Args:
        leaf: writes what is no list, mapping or nothing; by default as a recipe has it.
    """
    write = leaf or _plain
    if value is None or value in ([], {}, ()):
        return NONE
    if isinstance(value, dict):
        return ", ".join(f"{name} {_inner(entry, write)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_inner(entry, write) for entry in value)
    return write(value)


def _inner(value: object, write: Callable[[object], str]) -> str:
    """A value inside another: what has several parts stands in parentheses."""
    text = in_words(value, write)
    return f"({text})" if isinstance(value, dict | list | tuple) and value else text


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def rounded(value: object, digits: int = 1) -> str:
    """A number to so many places; whatever else there is as it is."""
    return number(value, digits) if isinstance(value, float) else _plain(value)


def counted(number: int, thing: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def place(path: Path | str) -> str:
    """A path as short as it can be given to a shell here: from the working folder, or from `~`."""
    path = Path(path)
    for folder, before in ((Path.cwd(), "."), (Path.home(), "~")):
        # From the root everything is below.
        if path.is_relative_to(folder) and folder != Path(folder.anchor):
            inside = str(path.relative_to(folder))
            return inside if before == "." else f"{before}/{inside}" if inside != "." else before
    return str(path)
