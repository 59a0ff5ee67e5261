"""Preference pairs of plain text without a prompt. The prompt is what `chosen` and `rejected` both begin with, up to a blank, as in TRL.

`pairs` doesn't do this with a row that has no prompt: where the prompt's column has another name, it would make prompts of the few
words that both sides share. https://huggingface.co/docs/trl/dataset_formats#preference
"""

from __future__ import annotations

from data.rows import Candidate, Fields, Row

GIVES = "pairs"
COLUMNS = {"id": ("id",), "chosen": ("chosen",), "rejected": ("rejected",)}


def row(fields: Fields) -> Row:
    """The pair, and the text that both sides begin with as its prompt."""
    chosen, rejected = fields.text("chosen"), fields.text("rejected")
    common = min(len(chosen), len(rejected))
    common = next((n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), common)
    if common and chosen[common - 1] == " ":
        common -= 1
    return Row(
        [{"role": "user", "content": chosen[:common]}], (Candidate(chosen[common:], 1), Candidate(rejected[common:], -1))
    )
