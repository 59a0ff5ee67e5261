r"""The answer in a completion, by ZeroEval's rules in ZeroEval's order; the rule that found it is part of the result.

1. `json`: the first balanced `{…}` without its newlines, where it is JSON and has an "answer".
2. `quoted_value`, `unquoted_value`, `unquoted_key`: a regular expression each, over the whole text.
3. `boxed`: `\boxed{…}` of one word, where it is asked for and stands near the end (upstream: for Llama 3.1 alone).
4. `none`.

Every step takes time linear in the text, and nothing is executed. https://github.com/WildEval/ZeroEval
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass

from evaluation.answers.arithmetic import ArithmeticTextError, evaluate

_BRACE = re.compile(r"[{}]")
# Upstream tries a quoted value on one line and then across lines; the first of its two patterns matches across lines too.
_FALLBACKS = (
    ("quoted_value", re.compile(r'"answer"\s*:\s*"([^"]*)"')),
    ("unquoted_value", re.compile(r'"answer"\s*:\s*([^,\s]*)')),
    ("unquoted_key", re.compile(r"answer\s*:\s*([^,\s]*)")),
)
_BOXED = re.compile(r"\\boxed\{(\w+)\}")
_BOXED_TAIL = 30  # characters
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Extraction:
    """What stands in the answer field, of any JSON type, and the rule that found it; the rule is "none" where nothing did."""

    value: object
    rule: str


def extract_answer(text: str, *, boxed: bool = False, empty_is_none: bool = False) -> Extraction:
    """The answer of a completion.

    Args:
        boxed: Whether the boxed rule is tried where the others find nothing.
        empty_is_none: Whether a null or empty answer counts as not found (multiple choice).
    """
    found = _from_json(text) or _from_patterns(text)
    if found is not None and not (empty_is_none and found.value in (None, "")):
        return found
    if boxed and "boxed" in text[-_BOXED_TAIL:] and (match := _BOXED.search(text)):
        return Extraction(match.group(1), "boxed")
    return Extraction(None, "none")


def first_balanced_braces(text: str) -> str | None:
    """The first `{…}` with as many opening as closing braces; closing ones before it are skipped, strings are not looked at."""
    if "}" not in text:
        return None
    depth = start = 0
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            if depth == 0:
                start = match.start()
            depth += 1
        elif depth > 0:
            depth -= 1
            if depth == 0:
                return text[start : match.end()]
    return None


def math_number(text: str) -> float | None:
    """The first number of a math answer, after `$` and `,` are dropped and a text with `/` is evaluated where that is possible."""
    text = text.replace("$", "").strip().replace(",", "")
    if "/" in text:
        with suppress(ArithmeticTextError):  # "3/4 cup" has no value; its first number counts.
            text = str(evaluate(text))
    match = _NUMBER.search(text)
    return float(match.group()) if match else None


def _from_json(text: str) -> Extraction | None:
    braces = first_balanced_braces(text)
    if braces is None:
        return None
    try:
        values = json.loads(braces.replace("\n", ""))
    except (ValueError, RecursionError):  # Numbers of thousands of digits are a ValueError, deep nesting is the other.
        return None
    return Extraction(values["answer"], "json") if "answer" in values else None


def _from_patterns(text: str) -> Extraction | None:
    for rule, pattern in _FALLBACKS:
        if match := pattern.search(text):
            return Extraction(match.group(1), rule)
    return None
