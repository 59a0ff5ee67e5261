"""GSM8K's training split, to sample from: rows with a `question`, and an `answer` worked out that ends with `#### ` and a number.

https://arxiv.org/abs/2110.14168
"""

from __future__ import annotations

from data.reading.records import DataSource
from data.rows import Fields
from evaluation.types import Item

GIVES = "problems"
HUB = (DataSource("gsm8k", "openai/gsm8k", config="main", split="train"),)
COLUMNS = {"question": ("question",), "answer": ("answer",)}

_MARK = "####"


def item(fields: Fields) -> Item:
    """A problem as the benchmark of this name scores it."""
    answer = fields.text("answer")
    if _MARK not in answer:
        raise fields.error("answer", f"must end with {_MARK} and a number, got {answer[-40:]!r}")
    return {"question": fields.text("question"), "answer": answer.rpartition(_MARK)[2].strip()}
