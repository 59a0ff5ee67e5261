"""Example completions for the report: a few per benchmark, chosen by a rule and not by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluation.formats import cut
from evaluation.paired import is_correct, read_scores
from evaluation.records import Record, read_records

# Whether each model was right → what that is called, and how many are shown. In this order.
_KINDS: dict[tuple[bool, ...], tuple[str, int]] = {
    (False, True): ("wrong → right", 2),
    (True, False): ("right → wrong", 2),
    (True, True): ("right both times", 1),
    (False, False): ("wrong both times", 1),
    (True,): ("right", 2),
    (False,): ("wrong", 3),
}
_FIELD_CHARACTERS, _FIELD_LINES = 600, 12
_TEXT_CHARACTERS, _TEXT_LINES = 1500, 40


@dataclass(frozen=True)
class Excerpt:
    """A text's beginning, and how many characters are missing after it."""

    text: str
    num_left_out: int


@dataclass(frozen=True)
class Answer:
    """One model's completion of an item, and what the scorer says of it."""

    model: str
    outcome: str
    answer: Excerpt | None
    rule: str
    finish_reason: str | None
    num_completion_tokens: int | None
    completion: Excerpt


@dataclass(frozen=True)
class Example:
    """An item, its fields (the question, the right answer), the rendered prompt, and each model's answer."""

    id: str
    kind: str
    fields: list[tuple[str, Excerpt]]
    prompt: Excerpt
    answers: list[Answer]


def examples(scores: Mapping[str, Path], generations: Mapping[str, Path]) -> list[Example]:
    """Examples of one benchmark: of each kind of item (flipped to right, flipped to wrong, …) those whose ids hash lowest.

    Args:
        scores: Folder of scores by model, one model or two in the order they are shown.
        generations: Folder of completions by model; models without one show no examples.
    """
    models = [model for model in scores if model in generations]
    if not models:
        return []
    verdicts = {model: read_scores(scores[model]) for model in models}
    chosen = dict(_choose(list(verdicts.values())))
    completions = {model: _chosen_records(generations[model] / "completions.jsonl", chosen) for model in models}
    items = _chosen_records(generations[models[0]] / "items.jsonl", chosen)
    return [
        Example(
            id=id,
            kind=kind,
            fields=[(name, _field(value)) for name, value in items[id].items() if name != "id"],
            prompt=_text(completions[models[0]][id]["prompt"]),
            answers=[_answer(model, verdicts[model][id], completions[model][id]) for model in models],
        )
        for id, kind in chosen.items()
        if id in items and all(id in completions[model] for model in models)
    ]


def _choose(verdicts: list[dict[str, Record]]) -> Iterator[tuple[str, str]]:
    """Yields (item id, kind)."""
    shared = [id for id in verdicts[0] if all(id in others for others in verdicts)]
    shared.sort(key=lambda id: hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest())
    for pattern, (kind, count) in _KINDS.items():
        fitting = [id for id in shared if tuple(is_correct(found[id]) for found in verdicts) == pattern]
        for id in fitting[:count]:
            yield id, kind


def _chosen_records(path: Path, chosen: Mapping[str, str]) -> dict[str, Record]:
    return {record["id"]: record for record in read_records(path) if record["id"] in chosen}


def _answer(model: str, verdict: Record, completion: Record) -> Answer:
    return Answer(
        model=model,
        outcome=verdict["outcome"],
        answer=None if verdict["answer"] is None else _field(verdict["answer"]),
        rule=verdict["rule"],
        finish_reason=verdict["finish_reason"],
        num_completion_tokens=verdict["num_completion_tokens"],
        completion=_text(completion["completion"]),
    )


def _field(value: object) -> Excerpt:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Excerpt(*cut(text, _FIELD_CHARACTERS, _FIELD_LINES))


def _text(text: str) -> Excerpt:
    return Excerpt(*cut(text, _TEXT_CHARACTERS, _TEXT_LINES))
