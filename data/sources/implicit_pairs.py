"""Preference pairs of plain text without a prompt: TRL's implicit prompt, what `chosen` and `rejected` both begin with, up to a blank.

It is a source of its own, and not what `pairs` does with a row that has no prompt: a column that is called otherwise would give
prompts of a few shared words. https://huggingface.co/docs/trl/dataset_formats#preference
"""

from __future__ import annotations

from data.rows import Candidate, Fields, Row

GIVES = "pairs"
COLUMNS = {"id": ("id",), "chosen": ("chosen",), "rejected": ("rejected",)}


def row(fields: Fields) -> Row:
    """The pair, parted from what its sides share."""
    chosen, rejected = fields.text("chosen"), fields.text("rejected")
    common = min(len(chosen), len(rejected))
    common = next((n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), common)
    if common and chosen[common - 1] == " ":
        common -= 1
    return Row(
        [{"role": "user", "content": chosen[:common]}], (Candidate(chosen[common:], 1), Candidate(rejected[common:], -1))
    )
