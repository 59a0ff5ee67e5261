"""Arena-Hard v0.1: open-ended questions, answered in one turn and judged against a baseline's answers.

Dataset: lmarena/arena-hard-auto, `question.jsonl` (500 questions). Metric: win rate by a judge (`pairwise.py` of the judge protocols).
Pattern: the question as the user's turn, greedy, 4096 tokens. v2.0 has other questions, in two categories with a baseline and a score
each: they are refused here, and are `arena_hard_v2_hard_prompt` and `arena_hard_v2_creative_writing`. https://arxiv.org/abs/2406.11939
"""

from __future__ import annotations

from pathlib import Path

from evaluation.benchmarks._arena_hard_v2 import CATEGORIES
from evaluation.benchmarks._published import PublishedJudge
from evaluation.benchmarks._rows import Row, load_file
from evaluation.types import Item, Message

TITLE = "Arena-Hard v0.1"
NUM_ITEMS = 500
MAX_NEW_TOKENS = 4096
FORMS = {"pairwise": (PublishedJudge("gpt-4-1106-preview"),)}
BASELINE = "gpt-4-0314"

V01 = "arena-hard-v0.1"
_CATEGORIES = (None, V01, "sample")


def load(source: str | None, limit: int | None) -> list[Item]:
    """The questions. "sample" is twelve of the project's own; else a path to upstream's question.jsonl.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the source is None (upstream has no data set to load from a hub), or a line is no question of v0.1.
    """
    return load_file("arena_hard", source, limit, _item, "upstream's data/arena-hard-v0.1/question.jsonl")


def load_categories(source: Path) -> dict[str, list[str]]:
    """The ids of each category's questions, of upstream's question.jsonl of v0.1 or v2.0.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where a row is no question of either.
    """
    found: dict[str, list[str]] = {}
    for item in load_file("arena_hard", str(source), None, _categorised, "upstream's question.jsonl"):
        found.setdefault(item["category"], []).append(item["id"])
    return found


def messages(item: Item) -> list[Message]:
    """The question alone: the chat template's own system text stays."""
    conversation: list[Message] = item["conversation"]
    return conversation


def _item(row: Row) -> Item:
    if row.values.get("category") not in _CATEGORIES:
        raise row.error("hold questions of Arena-Hard v0.1", f"the category {row.values['category']!r}")
    prompt = row.get("prompt", kind=str) if "turns" not in row.values else _first_turn(row)
    return {
        "id": row.id("uid", "question_id"),
        "category": row.values.get("cluster"),
        "prompt": prompt,
        "conversation": [{"role": "user", "content": prompt}],
    }


def _categorised(row: Row) -> Item:
    category = row.values.get("category", V01)
    if category not in (V01, *CATEGORIES):
        raise row.error(f"hold questions of the categories {', '.join((V01, *CATEGORIES))}", f"the category {category!r}")
    return {"id": row.id("uid", "question_id"), "category": category}


def _first_turn(row: Row) -> str:
    """The question of upstream's older files."""
    turns = row.get("turns", kind=list)
    content = turns[0].get("content") if turns and isinstance(turns[0], dict) else None
    if not isinstance(content, str):
        raise row.error("have a turn with content", turns)
    return content
