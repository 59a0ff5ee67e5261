"""UltraFeedback, binarized: HuggingFaceH4/ultrafeedback_binarized, trl-lib/ultrafeedback_binarized and their kin.

`chosen` and `rejected` (text, the reply's message, or the whole conversation) with their ratings, at the top or in `metadata`.
A row whose sides are rated alike is a tie. https://arxiv.org/abs/2310.01377
"""

from __future__ import annotations

from data.rows import Fields, Row
from data.sources import pairs

GIVES = "pairs"
COLUMNS = {
    **pairs.COLUMNS,
    "score_chosen": ("score_chosen", "metadata.score_chosen"),
    "score_rejected": ("score_rejected", "metadata.score_rejected"),
}


def row(fields: Fields) -> Row:
    """The pair, with both ratings."""
    return pairs.row(fields)
