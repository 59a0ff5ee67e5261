"""PandaLM's human votes: two responses to an `instruction` with an `input`, and three annotators' votes for 1, 2 or 0 (alike).

The majority decides; without one, or with a majority for alike, the row is a tie. https://arxiv.org/abs/2306.05087
"""

from __future__ import annotations

from collections import Counter

from data.rows import Candidate, Fields, Row

GIVES = "pairs"
COLUMNS = {
    "id": ("idx",),
    "prompt": ("instruction",),
    "input": ("input",),
    "first": ("response1",),
    "second": ("response2",),
    "vote1": ("annotator1",),
    "vote2": ("annotator2",),
    "vote3": ("annotator3",),
}
UNUSED = ("motivation_app",)


def row(fields: Fields) -> Row:
    """The winner before the loser; of a tie, both in the data's order."""
    messages = fields.messages("prompt")
    votes = Counter(fields.number(vote) for vote in ("vote1", "vote2", "vote3") if fields.has(vote))
    if not votes or votes.keys() - {0, 1, 2}:
        raise fields.error("vote1", f"must be 0, 1 or 2, as all votes, got {sorted(votes)}")
    winner, count = votes.most_common(1)[0]
    first, second = fields.text("first"), fields.text("second")
    if winner == 0 or 2 * count <= votes.total():
        return Row(messages, (Candidate(first, 0), Candidate(second, 0)), tie=True)
    chosen, rejected = (first, second) if winner == 1 else (second, first)
    return Row(messages, (Candidate(chosen, 1), Candidate(rejected, -1)))
