"""Games that are decided without a judge, as where an answer is empty: they have a verdict and tell nothing of the judge."""

from __future__ import annotations

from evaluation.records import Record

NOT_ASKED = "not_asked"


def was_asked(game: Record) -> bool:
    """Whether a judge was asked for the game's verdict; of recorded judgments that don't say so, it was."""
    return bool(game.get("finish_reason") != NOT_ASKED)
