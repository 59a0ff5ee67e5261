"""MT-bench: 80 questions of two turns; a judge rates the answer of each turn (`evaluation/judging/protocols/turn_score.py`).

Dataset: lm-sys/FastChat, `question.jsonl`; reference answers for math, reasoning and coding from a file of their own
(`judge.benchmarks.mt_bench.references`) or from the question's row. Pattern: the second turn follows the model's own first answer;
temperature 0.7 for writing and roleplay, 0.1 for stem and humanities, else 0; 1024 tokens. https://arxiv.org/abs/2306.05685
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.benchmarks._published import PublishedJudge
from evaluation.benchmarks._rows import Row, load_file
from evaluation.types import Item, Message

TITLE = "MT-bench"
NUM_ITEMS = 80
NUM_TURNS = 2
MAX_NEW_TOKENS = 1024
FORMS = {"turn_score": (PublishedJudge("gpt-4"),)}
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
REFERENCED = ("math", "reasoning", "coding")


def load(source: str | None, limit: int | None) -> list[Item]:
    """The questions. "sample" is a few of the project's own; else a path to upstream's question.jsonl.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the source is None (upstream has no data set to load from a hub), or a line is no question.
    """
    return load_file("mt_bench", source, limit, _item, "upstream's data/mt_bench/question.jsonl")


def messages(item: Item, answers: Sequence[str] = ()) -> list[Message]:
    """The conversation up to the turn that follows `answers`, the model's own."""
    conversation: list[Message] = []
    for turn, answer in zip(item["turns"], answers, strict=False):
        conversation += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*conversation, {"role": "user", "content": item["turns"][len(answers)]}]


def temperature(item: Item) -> float:
    """By category, as upstream samples."""
    return TEMPERATURES.get(item["category"], 0.0)


def read_references(path: str) -> dict[str, list[str]]:
    """Reference answers by question id, of upstream's reference_answer/gpt-4.jsonl.

    Raises:
        FileNotFoundError, ValueError: where there is no such file, or a line has no answers.
    """
    rows = load_file("mt_bench", path, None, _reference, "upstream's reference_answer/gpt-4.jsonl")
    return {row["id"]: row["references"] for row in rows}


def _item(row: Row) -> Item:
    turns = row.get("turns", kind=list)
    if len(turns) != NUM_TURNS or not all(isinstance(turn, str) for turn in turns):
        raise row.error(f"have {NUM_TURNS} turns of text", turns)
    category = row.get("category", kind=str)
    item: Item = {"id": row.id("question_id"), "category": category, "turns": turns}
    if category in REFERENCED and row.values.get("reference"):
        item["references"] = [str(reference) for reference in row.get("reference", kind=list)]
    return item


def _reference(row: Row) -> Item:
    choices = row.get("choices", kind=list)
    turns = choices[0].get("turns") if choices and isinstance(choices[0], dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise row.error("have choices with turns of text", choices)
    return {"id": row.id("question_id"), "references": turns}
