"""WildBench's WB-Score protocol: one answer to the last turn of a conversation, with a checklist, rated from 1 to 10.

An empty answer is rated 1 without asking. https://arxiv.org/abs/2406.04770 · https://github.com/allenai/WildBench
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.benchmarks.wildbench import task_groups
from evaluation.judging.aggregates.judgment import Facts, Judgment
from evaluation.judging.aggregates.wildbench import aggregate_scores, output_facts
from evaluation.judging.aggregates.win_rate import paired_delta
from evaluation.judging.replies import conversation_texts, json_field, rating
from evaluation.records import Record
from evaluation.types import Item

COMPARES = False
LABELS = {str(score): float(score) for score in range(1, 11)}
MAX_WORDS = 1000
REASONS = ("strengths", "weaknesses")
VERDICT = "score"

TASK = (
    "An assistant has answered the last message of a conversation. Go through the checklist, where there is one, say what the answer does "
    "well and where it falls short, and rate it.\n\n"
    "1–2: makes no sense, or does harm\n3–4: helps little\n5–6: helps, with clear errors or gaps\n7–8: good, could be better\n"
    "9–10: as helpful as an answer can be"
)
ASK_TEXT = (
    'Reply with one JSON object and nothing else. Its keys are "strengths" and "weaknesses", each with your words, and last "score", '
    "with a whole number from 1 to 10."
)


def texts(item: Item, turn: int) -> list[tuple[str, str]]:
    """What the judge reads before the answer, as (heading, text): history, last message and checklist."""
    parts = conversation_texts(item["conversation"], "Last message", max_words=MAX_WORDS)
    if item.get("checklist"):
        parts.append(("Checklist", "\n".join(f"- {point}" for point in item["checklist"])))
    return parts


def parse(reply: str) -> float | None:
    """The score of a JSON reply; None where it isn't a number from 1 to 10."""
    return rating(json_field(reply, VERDICT))


def facts(answer: str, baseline: str | None) -> Facts:
    """Length and state of the answer; an empty one is rated 1."""
    return Facts(output=output_facts(answer), verdict=None if answer.strip() else 1.0)


def aggregate(
    judgments: Sequence[Judgment], *, num_expected: int, orders: str, demonstration: bool, questions: Sequence[Item]
) -> Record:
    """WB-Score; by task where the questions have WildBench's tags."""
    return aggregate_scores(judgments, num_expected=num_expected, tasks=tasks_of(questions), demonstration=demonstration)


def across(results: Mapping[str, Record], judgments: Mapping[str, Sequence[Judgment]]) -> Record:
    """What an aligned model gained over its base, on WB-Score's scale."""
    if not {"base", "aligned"} <= set(judgments):
        return {}
    base, aligned = ({one.question_id: one.rating for one in judgments[model]} for model in ("base", "aligned"))
    return paired_delta(base, aligned, scale=20)


def tasks_of(questions: Sequence[Item]) -> dict[str, list[str]] | None:
    """The task groups of WildBench's questions; None for other sets."""
    if not all("primary_tag" in item for item in questions):
        return None
    return {item["id"]: task_groups(item["primary_tag"], item["secondary_tags"]) for item in questions}
