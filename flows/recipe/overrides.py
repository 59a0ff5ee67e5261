"""Settings given as `key=value` beside a recipe, and copies of a recipe's values into which they are put."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnf.plain_yaml import read_setting
from flows.errors import RecipeError

# The keys in these sections are a person's own names, in which `-` and `_` differ.
_HOLD_NAMES = frozenset({"columns", "lm_eval", "prices", "chat_template_kwargs"})


def apply_overrides(raw: Mapping[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """A copy of a recipe's values with dotted `key=value` settings put in; values are YAML."""
    merged = _copied_section(raw)
    given: list[list[str]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"overrides must be key=value, got {override!r}; write e.g. train.learning_rate=2e-5")
        if not is_unicode(override):
            raise RecipeError(f"overrides must be text in UTF-8, got {override!r}; correct it")
        try:
            value = read_setting(key, text)
        except ValueError as error:
            raise RecipeError(str(error)) from error
        parts = key_parts(key)
        # Of the same key twice the later value counts, as on any command line. A whole section would undo its keys set before.
        undone = next((earlier for earlier in given if len(earlier) > len(parts) and earlier[: len(parts)] == parts), None)
        if undone is not None:
            raise RecipeError(
                f"{key} must stand before {'.'.join(undone)}, which it would undo, got {override} after it; move it"
            )
        given.append(parts)
        *parents, last = parts
        place = merged
        for parent in parents:
            inner = place.get(parent)
            if isinstance(inner, list):
                if not all(isinstance(entry, str) for entry in inner):
                    raise RecipeError(
                        f"{key} must name one of several, got a list of {len(inner)} in {parent}; edit the recipe"
                    )
                inner = _copied_section({name: {} for name in inner}, parent)
            inner = {} if inner is None else inner
            if not isinstance(inner, dict):
                raise RecipeError(f"{key} must name a key of the recipe, got one inside {parent}, which is {inner!r}")
            place[parent] = inner
            place = inner
        place[last] = value
    _check_text(merged, "")
    return merged


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: half of a surrogate pair stands for bytes of a command line, and YAML can escape it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_text(value: object, key: str) -> None:
    """Raises RecipeError for a key or a text that no file can hold."""
    if isinstance(value, str) and not is_unicode(value):
        raise RecipeError(f"{key} must be text that UTF-8 can hold, got {value!r}; correct it")
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        if isinstance(name, str) and not is_unicode(name):
            raise RecipeError(f"keys must be text that UTF-8 can hold, got {name!r}{f' in {key}' if key else ''}; correct it")
        _check_text(entry, f"{key}.{name}" if key else str(name))


def _copied(value: object, key: str) -> object:
    """A copy that shares nothing: where a YAML anchor fills several places, an override then changes one of them alone."""
    if isinstance(value, list):
        return [_copied(entry, key) for entry in value]
    return _copied_section(value, key) if isinstance(value, dict) else value


def _holds_names(key: str) -> bool:
    """Whether the keys of the section are a person's own; those of a template's variable are so at any depth."""
    parts = key.split(".")
    return parts[-1] in _HOLD_NAMES or "chat_template_kwargs" in parts


def _copied_section(section: Mapping[str, object], key: str = "") -> dict[str, object]:
    """A copy of a section, as `_copied` makes it, whose own keys have `_` for `-`.

    Raises:
        RecipeError: for a key that stands there with `-` and with `_`.
    """
    copy: dict[str, object] = {}
    for name, entry in section.items():
        called = name.replace("-", "_") if isinstance(name, str) and not _holds_names(key) else name
        whole = f"{key}.{called}" if key else str(called)
        if called in copy:
            raise RecipeError(f"{whole} must be given once, got it with - and with _; remove one")
        copy[called] = _copied(entry, whole)
    return copy


def key_parts(key: str) -> list[str]:
    """The parts of a dotted key. `-` and `_` are the same in the recipe's own keys and in the names of benchmarks."""
    parts: list[str] = []
    for part in key.split("."):
        parts.append(part if parts and _holds_names(".".join(parts)) else part.replace("-", "_"))
    return parts
