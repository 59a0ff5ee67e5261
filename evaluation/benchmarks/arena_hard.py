"""Arena-Hard v0.1: open-ended questions, answered in one turn and judged against a baseline's answers.

Dataset: lmarena/arena-hard-auto, `question.jsonl` (500 questions). Metric: win rate by a judge (`evaluation/judges/pairwise.py`).
Pattern: the question as the user's turn, greedy, 4096 tokens. https://arxiv.org/abs/2406.11939
"""

from __future__ import annotations

import json
from pathlib import Path

from evaluation._types import Item, Message

TITLE = "Arena-Hard v0.1"
NUM_ITEMS = 500
MAX_NEW_TOKENS = 4096

_SAMPLE = Path(__file__).parent / "samples" / "arena_hard.jsonl"


def load(source: str | None, limit: int | None) -> list[Item]:
    """The questions. "sample" is twelve of the project's own; else a path to upstream's question.jsonl.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the source is None (upstream has no data set to load from a hub), or a line is no question.
    """
    if source is None:
        raise ValueError(
            "arena_hard.source must be a file, got none; give upstream's data/arena-hard-v0.1/question.jsonl, or `sample`"
        )
    path = _SAMPLE if source == "sample" else Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"arena_hard.source must be a file, got {path}; give upstream's question.jsonl, or `sample`")
    items: list[Item] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if limit is not None and len(items) >= limit:
            break
        if line.strip():
            items.append(_item(line, f"{path}, line {number}"))
    return items


def messages(item: Item) -> list[Message]:
    """The question alone: the chat template's own system text stays."""
    return [{"role": "user", "content": item["prompt"]}]


def _item(line: str, where: str) -> Item:
    try:
        row = json.loads(line)
        return {"id": str(row["uid"]), "category": row["category"], "cluster": row["cluster"], "prompt": row["prompt"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"arena_hard.source must hold uid, category, cluster and prompt on each line, got {type(error).__name__} {error} "
            f"at {where}; correct the line"
        ) from error
