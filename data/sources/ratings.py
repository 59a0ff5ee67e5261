"""Several completions of a prompt, each with a rating: `prompt`, `completions` and `ratings`, lists of one length.

`prepare.ratings` says which ratings count as preferred.
"""

from __future__ import annotations

from data.rows import Candidate, Fields, Row

GIVES = "ratings"
COLUMNS = {
    "id": ("id", "prompt_id"),
    "prompt": ("prompt",),
    "completions": ("completions",),
    "ratings": ("ratings",),
    "models": ("models",),
}


def row(fields: Fields) -> Row:
    """Candidates with their ratings, and the models that wrote them where `models` names them."""
    messages = fields.messages("prompt")
    texts = [fields.as_completion("completions", value, messages) for value in fields.items("completions")]
    scores = fields.numbers("ratings")
    models = [str(model) for model in fields.items("models")] if fields.has("models") else [""] * len(texts)
    for name, values in (("ratings", scores), ("models", models)):
        if len(values) != len(texts):
            raise fields.error(name, f"must be as many as the completions, got {len(values)} for {len(texts)}")
    return Row(
        messages, tuple(Candidate(text, None, score, model) for text, score, model in zip(texts, scores, models, strict=True))
    )
