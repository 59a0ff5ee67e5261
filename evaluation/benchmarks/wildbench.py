"""WildBench v2: real users' conversations with a checklist each; the last message is answered.

Dataset: allenai/WildBench, configuration v2 (1024 items; locally its rows as JSON lines). Metrics: WB-Score, one answer rated
(`evaluation/judging/protocols/checklist_score.py`), and WB-Reward, against a reference model's answers (`checklist_pairwise.py`).
Pattern: the whole conversation as it was, greedy, 4096 tokens. https://arxiv.org/abs/2406.04770
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.benchmarks._published import PublishedJudge
from evaluation.benchmarks._rows import Row, load_items
from evaluation.types import Hub, Item, Message

TITLE = "WildBench v2"
NUM_ITEMS = 1024
MAX_NEW_TOKENS = 4096
FORMS = {
    "checklist_score": (PublishedJudge("gpt-4o-2024-05-13"),),
    "checklist_pairwise": (PublishedJudge("gpt-4-turbo-2024-04-09"),),
}
BASELINE = "gpt-4-turbo-2024-04-09"

HUB = Hub("allenai/WildBench", ["v2"])

# The task group that each of its tags belongs to.
TASKS = {
    "Information seeking": "Information/Advice seeking",
    "Advice seeking": "Information/Advice seeking",
    "Creative Writing": "Creative Tasks",
    "Editing": "Creative Tasks",
    "Brainstorming": "Creative Tasks",
    "Role playing": "Creative Tasks",
    "Others": "Creative Tasks",
    "Coding & Debugging": "Coding & Debugging",
    "Reasoning": "Planning & Reasoning",
    "Planning": "Planning & Reasoning",
    "Math": "Math & Data Analysis",
    "Data Analysis": "Math & Data Analysis",
}


def load(source: str | None, limit: int | None) -> list[Item]:
    """The items, with checklist and tags. None is the hub, "sample" a few of the project's own, else a file of upstream's rows.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where a row is no item.
    """
    return load_items("wildbench", source, limit, HUB, NUM_ITEMS, _item)


def load_tasks(source: str) -> dict[str, list[str]]:
    """The task groups of every question, from its tags alone: `hub`, `sample`, or a file of upstream's rows.

    Raises:
        FileNotFoundError: where the source is not there.
        ValueError: where a row has no tags of WildBench's.
    """
    items = load_items("wildbench", None if source == "hub" else source, None, HUB, NUM_ITEMS, _tagged)
    return {item["id"]: task_groups(item["primary_tag"], item["secondary_tags"]) for item in items}


def task_groups(primary_tag: str, secondary_tags: Sequence[str]) -> list[str]:
    """The task groups that an item counts for, each once.

    Raises:
        ValueError: where a tag is none of WildBench's.
    """
    tags = [primary_tag, *secondary_tags]
    unknown = [tag for tag in tags if tag not in TASKS]
    if unknown:
        raise ValueError(f"tags must be WildBench's ({', '.join(TASKS)}), got {unknown[0]!r}; correct the question")
    return list(dict.fromkeys(TASKS[tag] for tag in tags))


def messages(item: Item) -> list[Message]:
    """The conversation up to the user's last message: the chat template's own system text stays."""
    conversation: list[Message] = item["conversation"]
    return conversation


def _item(row: Row) -> Item:
    turns = row.get("conversation_input", kind=list)
    if not turns or not all(_is_turn(turn) for turn in turns):
        raise row.error("have a conversation_input of turns with role and content", str(turns)[:100])
    if turns[-1]["role"] != "user":
        raise row.error("have a conversation that ends with the user's message", turns[-1]["role"])
    tagged = _tagged(row)
    return {
        **tagged,
        "category": tagged["primary_tag"],
        "conversation": [{"role": turn["role"], "content": turn["content"]} for turn in turns],
        "checklist": [str(point) for point in row.get("checklist", kind=list)],
    }


def _tagged(row: Row) -> Item:
    return {
        "id": row.id("id", "session_id"),
        "primary_tag": row.get("primary_tag", kind=str),
        "secondary_tags": [str(other) for other in row.get("secondary_tags", kind=list)],
    }


def _is_turn(turn: object) -> bool:
    return (
        isinstance(turn, dict) and turn.get("role") in ("user", "assistant", "system") and isinstance(turn.get("content"), str)
    )
