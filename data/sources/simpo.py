"""The SimPO family's on-policy sets: princeton-nlp/llama3-ultrafeedback, …-armorm, gemma2-ultrafeedback-armorm and their kin.

`chosen` is the prompt's sample with the highest reward, `rejected` that with the lowest. The source `ratings` reads all samples with
their rewards from the same data. https://arxiv.org/abs/2405.14734
"""

from __future__ import annotations

from dataclasses import replace

from data.rows import Candidate, Fields, Row, pair
from data.sources import pairs

GIVES = "pairs"
COLUMNS = {
    **pairs.COLUMNS,
    "completions": ("all_generated_responses",),
    "ratings": ("all_rm_scores", "scores"),
}


def row(fields: Fields) -> Row:
    """The pair, with its sides' rewards where the row lists them; a tie where these are equal."""
    found = pairs.row(fields)
    if not (fields.has("completions") and fields.has("ratings")):
        return found
    replies = [fields.as_completion("completions", value, found.messages) for value in fields.items("completions")]
    texts = [Candidate(reply).text for reply in replies]
    scores = fields.numbers("ratings")
    if len(texts) != len(scores):
        raise fields.error("ratings", f"must be as many as the completions, got {len(scores)} for {len(texts)}")
    rewards = dict(zip(texts, scores, strict=True))
    chosen, rejected = (replace(one, score=rewards.get(one.text, one.score)) for one in found.candidates)
    return found if found.tie else pair(found.messages, chosen, rejected)
