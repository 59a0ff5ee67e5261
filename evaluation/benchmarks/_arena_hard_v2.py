"""Arena-Hard v2.0's questions, of which each category is a benchmark: its baseline and its score are its own, and never pooled.

Dataset: lmarena/arena-hard-auto, data/arena-hard-v2.0/question.jsonl (750: 500 `hard_prompt`, 250 `creative_writing`).
"""

from __future__ import annotations

from collections.abc import Callable

from evaluation.benchmarks._published import PublishedJudge
from evaluation.benchmarks._rows import Row, load_items
from evaluation.types import Hub, Item, Message

# Upstream limits each model by itself (config/api_config.yaml): gemma-3-27b-it and gpt-4o-mini to the former, QwQ-32B to the latter.
MAX_NEW_TOKENS = 8196
MAX_NEW_TOKENS_WITH_THOUGHT = 32_000
# As config/arena-hard-v2.0.yaml has them. Each has a published table of hard prompts; that of creative writing is of both together.
GEMINI = PublishedJudge("gemini-2.5-pro-preview-03-25", called="gemini-2.5", temperature=1.0, max_judgment_tokens=32_000)
GPT = PublishedJudge("gpt-4.1", max_judgment_tokens=16_000)
QUESTIONS_FILE = "data/arena-hard-v2.0/question.jsonl"
CATEGORIES = ("hard_prompt", "creative_writing")


def load_category(benchmark: str, category: str, num_items: int, source: str | None, limit: int | None) -> list[Item]:
    """The first `limit` questions of the category. Those of the other are counted as left out.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where none is named, or a row is no question of v2.0.
    """
    if source is None or source == "sample":
        raise ValueError(
            f"{benchmark}.source must be a file, got {source or 'none'}; give upstream's {QUESTIONS_FILE}, of lmarena/arena-hard-auto"
        )
    return load_items(benchmark, source, limit, Hub("", []), num_items, of_category(category))


def of_category(category: str) -> Callable[[Row], Item | str]:
    """What reads a row: a question of the category, or the reason why it is left out."""

    def read(row: Row) -> Item | str:
        found = row.values.get("category")
        if found not in CATEGORIES:
            raise row.error(
                f"hold questions of Arena-Hard v2.0, whose categories are {' and '.join(CATEGORIES)}", f"the category {found!r}"
            )
        if found != category:
            return f"of the category {found}"
        prompt = row.get("prompt", kind=str)
        return {
            "id": row.id("uid"),
            "category": row.values.get("subcategory"),
            "prompt": prompt,
            "conversation": [{"role": "user", "content": prompt}],
        }

    return read


def messages(item: Item) -> list[Message]:
    """The question alone: the chat template's own system text stays."""
    conversation: list[Message] = item["conversation"]
    return conversation
