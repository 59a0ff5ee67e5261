"""Says how many prompts left no room for a completion: in a table they look like models without an answer."""

from __future__ import annotations

from pathlib import Path

# As `to_line` writes it; inside a text its quotes would be escaped.
_TOO_LONG = b'"finish_reason": "prompt_too_long"'


def too_long(file: Path, what: str, key: str) -> str | None:
    """A line about the records of a stage's file that are too long for the model, None where there are none.

    Args:
        what: what a record is, in the plural.
        key: the recipe's key of the longest text.
    """
    with file.open("rb") as lines:
        found = [_TOO_LONG in line for line in lines]
    if not any(found):
        return None
    return (
        f"{sum(found)} of {len(found)} {what} leave no room for a token within the model's length or {key}, and got none: "
        f"prompt_too_long in {file}"
    )
