"""Recorded judgments of Arena-Hard: a line per question with two games, in 1 the baseline is A. Whose questions they are, and against
whom, the row says: v2.0 has two categories with a baseline each, and a score each. https://github.com/lmarena/arena-hard-auto
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from evaluation.judging.aggregates.style_control import style
from evaluation.judging.aggregates.win_rate import VERDICTS
from evaluation.judging.recorded.rows import Fault, Key, Read, UnreadableRowError
from evaluation.records import Record


class Category(NamedTuple):
    """The protocol of a category: its version, its number of questions, its baseline."""

    version: str
    num_questions: int
    baseline: str


V01 = "arena-hard-v0.1"
CATEGORIES = {
    V01: Category("v0.1", 500, "gpt-4-0314"),
    "hard_prompt": Category("v2.0", 500, "o3-mini-2025-01-31"),
    "creative_writing": Category("v2.0", 250, "gemini-2.0-flash-001"),
}
# v2.0 also takes labels that point the other way.
_LABELS_V2 = {
    **{label: label for label in VERDICTS},
    "A<B": "B>A",
    "A<<B": "B>>A",
    "B=A": "A=B",
    "B<A": "A>B",
    "B<<A": "A>>B",
}
_LABELS = {"v0.1": {label: label for label in VERDICTS}, "v2.0": _LABELS_V2}
_ANSWERS = re.compile(
    r"<\|The Start of Assistant A's Answer\|>\n(.*)\n<\|The End of Assistant A's Answer\|>"
    r".*<\|The Start of Assistant B's Answer\|>\n(.*)\n<\|The End of Assistant B's Answer\|>",
    re.DOTALL,
)


def arena_row(row: dict[str, Any], file_judge: str | None) -> Read:
    """The games of a row. Of v0.1 a null drops its game; of v2.0 it drops both games of its question, as upstream's code does."""
    question = row.get("question_id", row.get("uid"))
    if not isinstance(question, str | int) or isinstance(question, bool):
        raise UnreadableRowError("have a question_id or a uid", repr(question))
    if not isinstance(row.get("model"), str):
        raise UnreadableRowError("have a model", repr(row.get("model")))
    category, baseline = _category(row)
    judge = row["judge"] if isinstance(row.get("judge"), str) else file_judge
    key = Key(row["model"], judge, "pairwise", baseline, category)
    games = row.get("games")
    fault = None
    if not isinstance(games, list) or not games or len(games) > 2:
        many = f"{len(games)} games, of which the first two count" if isinstance(games, list) and games else repr(games)
        fault = Fault("have one or two games", many)
    # As upstream does, the first two count.
    played = [
        (number, game) for number, game in enumerate(games[:2] if isinstance(games, list) else [], start=1) if game is not None
    ]
    version = CATEGORIES[category].version
    records = []
    for number, game in played:
        label = game.get("score") if isinstance(game, dict) else None
        if not isinstance(game, dict) or not isinstance(label, str | None):
            fault = fault or Fault("have games with a score that is a label or null", repr(game))
        elif label and label not in _LABELS[version]:
            fault = fault or Fault(f"have games with a label among {', '.join(_LABELS[version])}", repr(label))
        verdict = _LABELS[version].get(label) if isinstance(label, str) else None
        record: Record = {"question_id": str(question), "game": number, "verdict": verdict}
        records.append(record | (_styles(game, number) if isinstance(game, dict) else {}))
    if version == "v2.0" and (len(records) < 2 or any(record["verdict"] is None for record in records)):
        records = [{**record, "verdict": None} for record in records]
    return key, records, fault


def _category(row: dict[str, Any]) -> tuple[str, str]:
    """The row's category and baseline. Of v0.1's older rows neither is written; what only one of them names is the protocol's.

    Raises:
        UnreadableRowError: where the category is unknown, or can't be known.
    """
    category, baseline = row.get("category"), row.get("baseline")
    if not isinstance(baseline, str | None):
        raise UnreadableRowError("have a baseline's name", repr(baseline))
    if category is None:
        # `question_id` is of v0.1's files; those with a `uid` name both.
        category = next((name for name, known in CATEGORIES.items() if known.baseline == baseline), None)
        category = category or (V01 if "question_id" in row else None)
    if not isinstance(category, str) or category not in CATEGORIES:
        raise UnreadableRowError(
            f"have a category among {', '.join(CATEGORIES)}", f"{row.get('category')!r} with the baseline {baseline!r}"
        )
    return category, baseline or CATEGORIES[category].baseline


def _styles(game: dict[str, Any], number: int) -> Record:
    """The style of both answers, which stand in the judge's prompt: a text, or a conversation that ends with it."""
    prompt = game.get("user_prompt", game.get("prompt"))
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict):
        prompt = prompt[-1].get("content")
    found = _ANSWERS.search(prompt) if isinstance(prompt, str) else None
    if found is None:
        return {}
    sides = ("baseline_style", "candidate_style") if number == 1 else ("candidate_style", "baseline_style")
    return {side: style(text) for side, text in zip(sides, found.groups(), strict=True)}
