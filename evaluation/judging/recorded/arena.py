"""Recorded judgments of Arena-Hard: a line per question with two comparisons ("games"), in the first of which the baseline is A.

The row names its category and its baseline: v2.0 has two categories, each with a baseline and a score of its own.
https://github.com/lmarena/arena-hard-auto
"""

from __future__ import annotations

import re
from typing import NamedTuple

from evaluation.judging.aggregates.arena_hard_v2 import leave_out
from evaluation.judging.aggregates.judgment import Facts, Judgment
from evaluation.judging.aggregates.style_control import style
from evaluation.judging.aggregates.win_rate import LABELS_V2, VERDICTS
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
_LABELS = {"v0.1": {label: label for label in VERDICTS}, "v2.0": LABELS_V2}
NO_GAME, NO_LABEL, UNKNOWN_LABEL = "no game", "no label", "a label that the protocol doesn't have"
_ANSWERS = re.compile(
    r"<\|The Start of Assistant A's Answer\|>\n(.*)\n<\|The End of Assistant A's Answer\|>"
    r".*<\|The Start of Assistant B's Answer\|>\n(.*)\n<\|The End of Assistant B's Answer\|>",
    re.DOTALL,
)


def arena_row(row: Record, file_judge: str | None) -> Read:
    """The comparisons of a row. As upstream does it, one without a verdict doesn't count, nor in v2.0 the other one of its row."""
    question = row.get("question_id", row.get("uid"))
    if not isinstance(question, str | int) or isinstance(question, bool):
        raise UnreadableRowError("have a question_id or a uid", repr(question))
    if not isinstance(row.get("model"), str):
        raise UnreadableRowError("have a model", repr(row.get("model")))
    category, baseline = _category(row)
    judge = row.get("judge")
    if not isinstance(judge, str | None):
        raise UnreadableRowError("have a judge's name", repr(judge))
    key = Key(row["model"], file_judge if judge is None else judge, "pairwise", baseline, category)
    games = row.get("games")
    fault = None
    if not isinstance(games, list) or not games or len(games) > 2:
        many = f"{len(games)} games, of which the first two count" if isinstance(games, list) and games else repr(games)
        fault = Fault("have one or two games", many)
    version = CATEGORIES[category].version
    judgments: list[Judgment] = []
    # As upstream does, the first two count.
    for number, game in enumerate(games[:2] if isinstance(games, list) else [], start=1):
        if game is None:
            # A request that failed. In v2.0 it takes the question's other game with it.
            if version == "v2.0":
                judgments.append(Judgment(str(question), number, None, null_reason=NO_GAME))
            continue
        label = game.get("score") if isinstance(game, dict) else None
        if not isinstance(game, dict) or "score" not in game or not isinstance(label, str | None):
            fault = fault or Fault("have games with a score that is a label or null", repr(game))
        elif label and label not in _LABELS[version]:
            fault = fault or Fault(f"have games with a label among {', '.join(_LABELS[version])}", repr(label))
        verdict = _LABELS[version].get(label) if isinstance(label, str) else None
        facts = _styles(game, number) if isinstance(game, dict) else Facts()
        reason = None if verdict is not None else UNKNOWN_LABEL if label else NO_LABEL
        judgments.append(Judgment(str(question), number, verdict, facts, null_reason=reason))
    if not judgments:
        fault = fault or Fault("have a game that was judged", repr(games))
    if version == "v2.0" and (len(judgments) < 2 or any(one.verdict is None for one in judgments)):
        judgments = [leave_out(one) for one in judgments]
    return key, judgments, fault


def _category(row: Record) -> tuple[str, str]:
    """The row's category and baseline. Older rows of v0.1 have neither; where a row has one of them, the protocol gives the other.

    Raises:
        UnreadableRowError: where the row's category is none of Arena-Hard's, or it has none and its baseline doesn't tell.
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


def _styles(game: Record, number: int) -> Facts:
    """The style of both answers, which stand in the judge's prompt: a text, or a conversation that ends with it."""
    prompt = game.get("user_prompt", game.get("prompt"))
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict):
        prompt = prompt[-1].get("content")
    found = _ANSWERS.search(prompt) if isinstance(prompt, str) else None
    if found is None:
        return Facts()
    first, second = map(style, found.groups())
    return Facts(second, first) if number == 1 else Facts(first, second)
