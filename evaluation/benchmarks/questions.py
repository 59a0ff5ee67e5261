"""A question set of one's own, judged by WildBench's or Arena-Hard's protocol.

Dataset: JSON lines with `prompt`, or with `messages` that end with the user's; optionally `id`, `category` and a `checklist` (a list of
points). Metrics: one answer rated with the checklist (`evaluation/judging/protocols/checklist_score.py`), or two compared (`pairwise.py`).
Pattern: the question as it is, greedy, 4096 tokens.
"""

from __future__ import annotations

from evaluation.benchmarks._published import PublishedJudge
from evaluation.benchmarks._rows import Row, load_file
from evaluation.types import Item, Message

TITLE = "Own questions"
NUM_ITEMS = None  # as many as the file has
MAX_NEW_TOKENS = 4096
# None: no figures are published for these questions.
FORMS: dict[str, tuple[PublishedJudge, ...]] = {"pairwise": (), "checklist_score": ()}


def load(source: str | None, limit: int | None) -> list[Item]:
    """The questions of a file; there is no default.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where none is named, or a line is no question.
    """
    return load_file("questions", source, limit, _item, "a file with a prompt on each line")


def messages(item: Item) -> list[Message]:
    """The question as it is: the chat template's own system text stays."""
    conversation: list[Message] = item["conversation"]
    return conversation


def _item(row: Row) -> Item:
    if "messages" in row.values:
        turns = row.get("messages", kind=list)
        if not turns or not all(isinstance(t, dict) and isinstance(t.get("content"), str) and "role" in t for t in turns):
            raise row.error("have messages with role and content", turns)
        if turns[-1]["role"] != "user":
            raise row.error("have messages that end with the user's", turns[-1]["role"])
        conversation = [{"role": str(turn["role"]), "content": turn["content"]} for turn in turns]
    else:
        conversation = [{"role": "user", "content": row.get("prompt", kind=str)}]
    checklist = row.get("checklist", kind=list) if "checklist" in row.values else []
    return {
        "id": str(row.values.get("id", f"questions-{row.number}")),
        "category": row.values.get("category"),
        "prompt": conversation[-1]["content"],
        "conversation": conversation,
        "checklist": [str(point) for point in checklist],
    }
