"""HelpSteer and HelpSteer2: a `response` to a `prompt` with ratings from 0 to 4; the rows of one prompt become one group.

The rating is `helpfulness`; `columns: {rating: correctness}` takes another of correctness, coherence, complexity, verbosity.
HelpSteer2 writes earlier turns into the prompt, separated by lines `<extra_id_1>User` and `<extra_id_1>Assistant`.
https://arxiv.org/abs/2406.08673
"""

from __future__ import annotations

import re

from data.rows import Candidate, Fields, Row
from evaluation.types import Message

GIVES = "ratings"
COLUMNS = {"id": ("id",), "prompt": ("prompt",), "completion": ("response",), "rating": ("helpfulness",)}

_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def row(fields: Fields) -> Row:
    """One candidate with its rating."""
    return Row(_turns(fields.text("prompt")), (Candidate(fields.text("completion"), None, fields.number("rating")),))


def _turns(prompt: str) -> list[Message]:
    first, *rest = _TURN.split(prompt)
    turns = zip(["User", *rest[::2]], [first, *rest[1::2]], strict=True)
    return [{"role": author.lower(), "content": words} for author, words in turns]
