"""UltraFeedback with its ratings: openbmb/UltraFeedback, four models' completions of an `instruction`, rated by GPT-4.

The rating is `overall_score` (1 to 10); `columns: {rating: fine-grained_score}` takes the mean of the four aspects instead.
https://arxiv.org/abs/2310.01377
"""

from __future__ import annotations

from typing import Any

from data.sources._rows import Candidate, Fields, Row

COLUMNS = {
    "id": ("id",),
    "prompt": ("instruction",),
    "completions": ("completions",),
    "completion": ("response",),
    "rating": ("overall_score",),
    "model": ("model",),
}


def row(fields: Fields) -> Row:
    """Candidates with their ratings; a completion that GPT-4 gave none is left out."""
    return Row(
        fields.messages("prompt"), tuple(found for value in fields.items("completions") if (found := _candidate(fields, value)))
    )


def _candidate(fields: Fields, value: Any) -> Candidate | None:
    if not isinstance(value, dict):
        raise fields.error("completions", f"must hold objects, got {type(value).__name__}")
    one = fields.inside(value)
    if not one.has("rating") or one.need("rating") == "N/A":
        return None
    return Candidate(one.text("completion"), None, one.number("rating"), one.text("model") if one.has("model") else "")
