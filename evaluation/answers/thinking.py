"""The reply of a model that reasons before it: what follows the reasoning's end."""

from __future__ import annotations

_END = "</think>"


def after_thinking(completion: str) -> str:
    """What follows the last `</think>`; the whole completion where there is none, so a reasoning that was cut off is all reply."""
    return completion.rpartition(_END)[2]
