"""UltraFeedback with its ratings: openbmb/UltraFeedback, four models' completions of an `instruction`, rated by GPT-4.

The rating is `overall_score` (1 to 10); `columns: {rating: fine-grained_score}` takes the mean of the four aspects instead.
https://arxiv.org/abs/2310.01377
"""

from __future__ import annotations

from data.rows import Candidate, Fields, Row

GIVES = "ratings"
COLUMNS = {
    "id": ("id",),
    "prompt": ("instruction",),
    "completions": ("completions",),
    "completion": ("response",),
    "rating": ("overall_score",),
    "model": ("model",),
}
UNUSED = ("correct_answers", "incorrect_answers")


def row(fields: Fields) -> Row:
    """Candidates with their ratings; one that GPT-4 didn't rate has no score.

    Raises:
        RowError: no completion has a rating, so that its column must be misnamed.
    """
    completions = [_inside(fields, value) for value in fields.items("completions")]
    if completions and not any(one.has("rating") for one in completions):
        completions[0].need("rating")
    return Row(fields.messages("prompt"), tuple(_candidate(one) for one in completions))


def _inside(fields: Fields, value: object) -> Fields:
    if not isinstance(value, dict):
        raise fields.error("completions", f"must hold objects, got {type(value).__name__}")
    return fields.inside(value)


def _candidate(one: Fields) -> Candidate:
    rating = one.number("rating") if one.has("rating") and one.need("rating") != "N/A" else None
    return Candidate(one.text("completion"), None, rating, one.text("model") if one.has("model") else "")
