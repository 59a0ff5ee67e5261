"""Prometheus' evaluation sets: a judge's whole prompt in `instruction`, with several scores from 1 to 5 in `gpt4_score`.

The instruction and the response are sections of the judge's prompt; the rating is the mean of the scores. The rows of one instruction
become one group. https://arxiv.org/abs/2310.08491
"""

from __future__ import annotations

from bnf.between import texts_between
from data.rows import Candidate, Fields, Row, RowError

GIVES = "ratings"
COLUMNS = {"id": ("id",), "instruction": ("instruction",), "ratings": ("gpt4_score",), "model": ("response_source",)}
UNUSED = ("gpt4_feedback",)

# Around the instruction and the response.
_HEADS = ("The instruction to evaluate:\n", "\n###Response to evaluate:\n", "\n###Reference Answer (Score 5):")


def row(fields: Fields) -> Row:
    """One candidate with its mean score."""
    found = texts_between(fields.text("instruction"), _HEADS)
    if found is None:
        raise RowError(
            "bad_schema", "instruction must have the sections of the instruction, the response and the reference, got others"
        )
    ratings = fields.numbers("ratings")
    if not ratings:
        raise fields.error("ratings", "must hold at least one score, got none")
    prompt, response = (text.strip() for text in found)
    model = fields.text("model") if fields.has("model") else ""
    return Row([{"role": "user", "content": prompt}], (Candidate(response, None, sum(ratings) / len(ratings), model),))
