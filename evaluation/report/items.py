"""Every item of a scored benchmark with what each model made of it: for `bnf show --items` and for the pages of items.

The report's examples are a few of these, cut. Here texts are whole, and a model's thought stands apart from what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from evaluation.paired import has_samples
from evaluation.records import Record
from evaluation.report.examples import kinds_of, records_of, verdict_of, verdicts_of
from evaluation.report.excerpts import field_text
from evaluation.samples import SAMPLE

T = TypeVar("T")

# What a reader may ask for → the kinds of items that it takes, by `kinds_of`. Of two models the last one decides what is right or wrong.
FILTERS: Mapping[str, tuple[str, ...]] = {
    "wrong→right": ("wrong → right",),
    "right→wrong": ("right → wrong",),
    "changed": ("wrong → right", "right → wrong"),
    "wrong": ("wrong", "right → wrong", "wrong both times"),
    "right": ("right", "wrong → right", "right both times"),
    "no-answer": ("wrong", "right → wrong", "wrong both times"),
}
_OF_TWO_MODELS = ("wrong→right", "right→wrong", "changed")


@dataclass(frozen=True)
class Reply:
    """One model's completion of an item, and what the scorer says of it.

    Attributes:
        sample: of several samples its number, from 0; None where the model was asked once.
        votes: how many of the item's samples have its answer; None of one completion, and where answers have no majority.
        thought: what stands before the answer; None where the model didn't think.
        completion: what was scored; None where the thought doesn't end.
    """

    model: str
    outcome: str
    answer: str | None
    rule: str
    finish_reason: str | None
    num_completion_tokens: int | None
    thought: str | None
    completion: str | None
    sample: int | None = None
    votes: int | None = None

    def to_json(self) -> Record:
        """Without what only samples have, where there are none."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in ("sample", "votes")}


@dataclass(frozen=True)
class Item:
    """An item: its kind, its fields (the question, the right answer), and each model's reply, or all of its samples in their order.

    With several samples an item is right where more than half of them are.
    """

    id: str
    kind: str
    fields: Mapping[str, object]
    replies: Sequence[Reply]

    def to_json(self) -> Record:
        return {**asdict(self), "replies": [reply.to_json() for reply in self.replies]}


def filters_of(kind: str, outcome: str) -> tuple[str, ...]:
    """The filters that take an item of this kind, on which the last model had this outcome."""
    return tuple(name for name, kinds in FILTERS.items() if kind in kinds and (name != "no-answer" or outcome == "no_answer"))


class Items:
    """A benchmark's items, in the order of its scores. Texts are read when they are asked for: together they may have gigabytes."""

    def __init__(self, scores: Mapping[str, Path], generations: Mapping[str, Path]) -> None:
        """
        Args:
            scores: Folder of scores by model, one model or two in the order they are shown.
            generations: Folder of completions by model.

        Raises:
            ValueError: where a file of scores has an item twice.
        """
        self._verdicts = verdicts_of(scores, generations)
        self._generations = generations
        # Of an item with several samples the record that stands for all of them.
        kinds = dict(kinds_of(self._verdicts))
        first = next(iter(self._verdicts.values()), {})
        self.kinds = {id: kinds[id] for id in first if id in kinds}
        # Items that one model alone has: nothing can be said of what changed.
        self.num_left_out = len({id for found in self._verdicts.values() for id in found}) - len(self.kinds)

    def outcome(self, id: str) -> str:
        """That of the last model, which says by which filters an item is found."""
        last = list(self._verdicts.values())[-1]
        return str(last[id]["outcome"])

    @property
    def has_samples(self) -> bool:
        """Whether items have several samples, in which case they are right where more than half of these are."""
        return any(map(has_samples, self._verdicts.values()))

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._verdicts)

    @property
    def filters(self) -> tuple[str, ...]:
        """The filters that make sense: with one model nothing changes."""
        return tuple(name for name in FILTERS if len(self._verdicts) > 1 or name not in _OF_TWO_MODELS)

    def chosen(self, filter: str | None = None, search: str | None = None) -> list[str]:
        """The ids of the items that a filter takes and that hold a text, in any case, in their id, a field or a completion.

        Raises:
            ValueError: where there is no such filter.
        """
        ids = list(self.kinds)
        if filter is not None:
            name = filter_name(filter, self.filters)
            ids = [id for id in ids if name in filters_of(self.kinds[id], self.outcome(id))]
        if search:
            holding = self._holding(search.casefold(), set(ids))
            ids = [id for id in ids if id in holding]
        return ids

    def _holding(self, text: str, ids: Collection[str]) -> set[str]:
        found = {id for id in ids if text in id.casefold()}
        for folder in self._generations.values():
            found |= {
                one["id"] for one in records_of(folder / "completions.jsonl", ids) if text in one["completion"].casefold()
            }
        return found | {id for id, fields in self.fields(ids) if text in "\n".join(map(field_text, fields.values())).casefold()}

    def fields(self, ids: Collection[str]) -> Iterator[tuple[str, Record]]:
        """The fields of these items by id, in the file's order."""
        for record in records_of(next(iter(self._generations.values())) / "items.jsonl", ids):
            yield record["id"], {name: value for name, value in record.items() if name != "id"}

    def replies(self, model: str, ids: Collection[str]) -> Iterator[tuple[str, Reply]]:
        """A model's replies to these items by id, in the file's order.

        Raises:
            ValueError: where a sample has no score.
        """
        for record in records_of(self._generations[model] / "completions.jsonl", ids):
            verdict = verdict_of(self._verdicts[model][record["id"]], record)
            yield record["id"], _reply(model, verdict, record["completion"])

    def read(self, ids: Sequence[str]) -> list[Item]:
        """These items, whole.

        Raises:
            ValueError: where an item was scored that the stage `generate` doesn't have.
        """
        wanted = set(ids)
        replies = {model: by_id(self.replies(model, wanted)) for model in self.models}
        fields = dict(self.fields(wanted)) if wanted else {}
        require_all(ids, fields, *replies.values())
        return [Item(id, self.kinds[id], fields[id], [reply for of in replies.values() for reply in of[id]]) for id in ids]


def by_id(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """The values of each id, in their order."""
    found: dict[str, list[T]] = {}
    for id, value in pairs:
        found.setdefault(id, []).append(value)
    return found


def require_all(ids: Iterable[str], fields: Container[str], *replies: Container[str]) -> None:
    """Raises ValueError where an item was scored that has no fields, or no reply of a model."""
    for file, found in (("items.jsonl", fields), *(("completions.jsonl", of) for of in replies)):
        if (lacking := next((id for id in ids if id not in found), None)) is not None:
            raise ValueError(f"{file} must hold every scored item, got none called {lacking!r}; run the stage `generate` again")


def filter_name(text: str, known: Sequence[str] = tuple(FILTERS)) -> str:
    """The filter that a person means, who may write `->` for the arrow, blanks around it and `no_answer`.

    Raises:
        ValueError: where there is none.
    """
    name = "".join(text.casefold().replace("->", "→").replace("_", "-").split())
    if name not in known:
        why = "; with one model nothing changes" if name in FILTERS else ""
        raise ValueError(f"filter must be one of {', '.join(known)}, got {text!r}{why}")
    return name


def _reply(model: str, verdict: Record, completion: str) -> Reply:
    # The score stage says where the answer begins that it scored; where it says nothing, it scored the whole.
    start = verdict.get("answer_start", 0)
    return Reply(
        model=model,
        outcome=verdict["outcome"],
        answer=verdict["answer"],
        rule=verdict["rule"],
        finish_reason=verdict["finish_reason"],
        num_completion_tokens=verdict["num_completion_tokens"],
        thought=completion if start is None else completion[:start] or None,
        completion=None if start is None else completion[start:],
        sample=verdict.get(SAMPLE),
        votes=verdict.get("votes"),
    )
