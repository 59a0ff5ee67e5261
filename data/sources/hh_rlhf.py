"""Anthropic's HH-RLHF: `chosen` and `rejected` are transcripts of `Human:` and `Assistant:` turns that differ in the last reply.

https://arxiv.org/abs/2204.05862
"""

from __future__ import annotations

import re

from data.rows import Candidate, Fields, Row, RowError, pair, same_prompt, split_last_turn
from evaluation.types import Message

GIVES = "pairs"
COLUMNS = {"id": ("id",), "chosen": ("chosen",), "rejected": ("rejected",)}

_TURN = re.compile(r"\n\n(Human|Assistant):")
_AUTHORS = {"Human": "user", "Assistant": "assistant"}


def row(fields: Fields) -> Row:
    """The pair; two transcripts that differ before the last reply have different prompts and are no pair."""
    first, better = split_last_turn(_turns(fields, "chosen"), "chosen")
    second, worse = split_last_turn(_turns(fields, "rejected"), "rejected")
    return pair(same_prompt(first, second), Candidate(better, 1), Candidate(worse, -1))


def _turns(fields: Fields, role: str) -> list[Message]:
    text = fields.text(role)
    before, *parts = _TURN.split(text)
    if before.strip() or not parts:
        raise RowError("bad_schema", f"{role} must begin with a blank line and `Human:`, got {text[:40]!r}")
    return [{"role": _AUTHORS[author], "content": words.strip()} for author, words in zip(parts[::2], parts[1::2], strict=True)]
