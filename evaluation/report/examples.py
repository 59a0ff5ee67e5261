"""Completions for the report: of each benchmark a few in full, chosen by a rule and not by hand, and every item that a model failed.

The page stays of a size that a browser opens at once: where there are many failures, their texts are cut shorter, and the page says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.answers.thoughts import answer_of
from evaluation.item_files import GENERATE_AGAIN, completion_lines, item_lines
from evaluation.paired import is_correct, read_scores
from evaluation.records import Record
from evaluation.report.excerpts import LIMITS, Excerpt, as_field, as_text, gist
from evaluation.samples import SAMPLE, num_right

# Whether each model was right → what that is called, and how many are shown in full. In this order.
_KINDS: dict[tuple[bool, ...], tuple[str, int]] = {
    (False, True): ("wrong → right", 2),
    (True, False): ("right → wrong", 2),
    (True, True): ("right both times", 1),
    (False, False): ("wrong both times", 1),
    (True,): ("right", 2),
    (False,): ("wrong", 3),
}
# By what the page's reader picks items: (key, title). Items whose last answer is none are also under `none`.
_CHOICES = (("gained", "gained"), ("lost", "lost"), ("wrong", "wrong"), ("none", "no answer"), ("right", "right"))
_CHOICE_OF = {"wrong → right": "gained", "right → wrong": "lost", "right both times": "right", "wrong both times": "wrong"}
# Of the listed items of all benchmarks together: how many there may be, and what their texts may take.
PAGE_ITEMS, PAGE_CHARACTERS = 6_000, 4_000_000


@dataclass(frozen=True)
class Answer:
    """One model's completion of an item, and what the scorer says of it; of several samples the first, and `beside` it what all are."""

    model: str
    outcome: str
    answer: Excerpt | None
    rule: str
    finish_reason: str | None
    num_completion_tokens: int | None
    completion: Excerpt
    beside: str = ""


@dataclass(frozen=True)
class Example:
    """An item, its fields (the question, the right answer), the rendered prompt, and each model's answer."""

    id: str
    kind: str
    fields: list[tuple[str, Excerpt]]
    prompt: Excerpt
    answers: list[Answer]
    outcome: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The keys by which a reader finds it."""
        return _choices(self.kind, self.outcome)

    @property
    def gist(self) -> str:
        """One line of its fields."""
        return gist_of(self.fields)

    @property
    def reads(self) -> str:
        """`74 → 80`: what was read as each model's answer."""
        found = " → ".join(gist(one.answer.text, 24) if one.answer else "none" for one in self.answers)
        return f"{found} in sample 0" if any(one.beside for one in self.answers) else found

    def shortened(self, most_characters: int) -> Example:
        answers = [replace(one, completion=one.completion.shortened(most_characters)) for one in self.answers]
        return replace(self, fields=[(name, part.shortened(most_characters)) for name, part in self.fields], answers=answers)

    @property
    def num_characters(self) -> int:
        """Those of the fields and the completions."""
        return sum(part.num_characters for _, part in self.fields) + sum(one.completion.num_characters for one in self.answers)


def gist_of(fields: Iterable[tuple[str, Excerpt]]) -> str:
    """An item in one line: its question or its longest field, or all fields where they are short."""
    texts = {name: part.text for name, part in fields}
    longest = texts.get("question") or max(texts.values(), key=len, default="")
    return gist(longest if len(longest) > 20 else ", ".join(f"{name} {text}" for name, text in texts.items()))


@dataclass(frozen=True)
class Choice:
    """A kind of item to pick: how many there are, and how many of them the page has."""

    key: str
    title: str
    number: int
    num_shown: int


@dataclass(frozen=True)
class Browsed:
    """What the page has of a benchmark's completions.

    Attributes:
        chosen: A few in full.
        listed: All others that a model failed, as far as there is room, with texts of at most `most_characters`.
        num_left_out: Failed items without room.
    """

    chosen: Sequence[Example]
    listed: Sequence[Example]
    choices: Sequence[Choice]
    num_left_out: int
    most_characters: int

    @property
    def is_cut(self) -> bool:
        """Whether the page's room made texts shorter than they would be."""
        return self.most_characters < LIMITS[0]


# The folders of a benchmark: its scores and its completions by model, one model or two in the order they are shown.
Folders = tuple[Mapping[str, Path], Mapping[str, Path]]


def examples(scores: Mapping[str, Path], generations: Mapping[str, Path]) -> list[Example]:
    """Examples of one benchmark: of each kind of item (flipped to right, flipped to wrong, …) those whose ids hash lowest.

    Args:
        scores: Folder of scores by model, one model or two in the order they are shown.
        generations: Folder of completions by model; models without one show no examples.
    """
    verdicts = verdicts_of(scores, generations)
    return _examples(verdicts, generations, _chosen(kinds_of(verdicts)))


def browse(benchmarks: Mapping[str, Folders]) -> dict[str, Browsed]:
    """What the page has of each benchmark. Benchmarks share the room by how many items they list."""
    verdicts = {name: verdicts_of(*folders) for name, folders in benchmarks.items()}
    kinds = {name: list(kinds_of(found)) for name, found in verdicts.items()}
    chosen = {name: _chosen(found) for name, found in kinds.items()}
    failed = {
        name: {id: kind for id, kind in found if _choice(kind) != "right" and id not in chosen[name]}
        for name, found in kinds.items()
    }
    share = min(1.0, PAGE_ITEMS / max(sum(map(len, failed.values())), 1))
    listed = {name: dict(list(found.items())[: round(share * len(found))]) for name, found in failed.items()}
    examples = {name: _examples(found, benchmarks[name][1], chosen[name] | listed[name]) for name, found in verdicts.items()}
    limit = _limit([one for name, found in examples.items() for one in found if one.id in listed[name]])
    return {
        name: Browsed(
            chosen=[one for one in found if one.id in chosen[name]],
            listed=sorted((one.shortened(limit) for one in found if one.id in listed[name]), key=_worst_first),
            choices=list(_counted(kinds[name], verdicts[name], {one.id for one in found})),
            num_left_out=len(failed[name]) - len(listed[name]),
            most_characters=limit,
        )
        for name, found in examples.items()
    }


def _worst_first(example: Example) -> int:
    return ("lost", "wrong", "gained").index(_choice(example.kind))


def _limit(listed: Sequence[Example]) -> int:
    """Where to cut their texts, so that all of them have room."""
    fitting = (limit for limit in LIMITS if sum(one.shortened(limit).num_characters for one in listed) <= PAGE_CHARACTERS)
    return next(fitting, LIMITS[-1])


def _counted(
    kinds: Sequence[tuple[str, str]], verdicts: Mapping[str, Mapping[str, Record]], shown: Container[str]
) -> Iterator[Choice]:
    last = list(verdicts.values())[-1] if verdicts else {}
    keys = {id: _choices(kind, last[id]["outcome"]) for id, kind in kinds}
    for key, title in _CHOICES:
        own = [id for id, found in keys.items() if key in found]
        if own:
            yield Choice(key, title, len(own), sum(id in shown for id in own))


def _choice(kind: str) -> str:
    return _CHOICE_OF.get(kind, kind)


def _choices(kind: str, outcome: str) -> tuple[str, ...]:
    return (_choice(kind), *(("none",) if outcome == "no_answer" else ()))


def verdicts_of(scores: Mapping[str, Path], generations: Mapping[str, Path]) -> dict[str, dict[str, Record]]:
    """The scores of the models that have completions."""
    return {model: read_scores(folder) for model, folder in scores.items() if model in generations}


def kinds_of(verdicts: Mapping[str, Mapping[str, Record]]) -> Iterator[tuple[str, str]]:
    """Yields (item id, kind) of all items that every model has: kind after kind, and within a kind by the hash of the id."""
    found = list(verdicts.values())
    shared = [id for id in found[0] if all(id in others for others in found)] if found else []
    shared.sort(key=lambda id: hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest())
    for pattern, (kind, _) in _KINDS.items():
        for id in shared:
            if tuple(is_correct(one[id]) for one in found) == pattern:
                yield id, kind


def _chosen(kinds: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The first few items of each kind."""
    room = dict(_KINDS.values())
    chosen = {}
    for id, kind in kinds:
        if room[kind]:
            room[kind] -= 1
            chosen[id] = kind
    return chosen


def _examples(
    verdicts: Mapping[str, Mapping[str, Record]], generations: Mapping[str, Path], chosen: Mapping[str, str]
) -> list[Example]:
    """The examples of these items, in their order. An item without a completion is none."""
    if not verdicts:
        return []
    models = list(verdicts)
    prompts: dict[str, Excerpt] = {}
    answers: dict[str, dict[str, Answer]] = {}
    for model in models:
        # A text may have megabytes: each is cut as it is read.
        for record in records_of(generations[model] / "completions.jsonl", chosen):
            if record.get(SAMPLE):
                continue  # the first is shown
            prompts.setdefault(record["id"], as_text(record["prompt"]))
            answers.setdefault(record["id"], {})[model] = _answer(model, verdicts[model][record["id"]], record)
    fields = {
        record["id"]: [(name, as_field(value)) for name, value in record.items() if name != "id"]
        for record in records_of(generations[models[0]] / "items.jsonl", chosen)
    }
    return [
        Example(
            id, kind, fields[id], prompts[id], [answers[id][model] for model in models], verdicts[models[-1]][id]["outcome"]
        )
        for id, kind in chosen.items()
        if id in fields and all(model in answers.get(id, {}) for model in models)
    ]


def records_of(path: Path, ids: Container[str]) -> Iterator[Record]:
    """The records of these items in a generation's items.jsonl or completions.jsonl, one at a time.

    Raises:
        ValueError: where a line of the file is not what it should hold.
    """
    if path.name == "items.jsonl":
        lines = item_lines(path, GENERATE_AGAIN)
    else:
        # An item without a completion is no example, and where one must be there the reader says so.
        lines = completion_lines(path, GENERATE_AGAIN, has_prompts=True, may_be_empty=True)
    return (record for _, record in lines if record["id"] in ids)


def verdict_of(verdict: Record, completion: Record) -> Record:
    """The verdict on one completion of an item; `verdict` is the item's, which has those on several samples.

    Raises:
        ValueError: where a sample has none.
    """
    if "samples" not in verdict:
        return verdict
    number = completion.get(SAMPLE)
    found = next((one for one in verdict["samples"] if one[SAMPLE] == number), None)
    if found is None:
        raise ValueError(
            f"scores.jsonl must hold every sample, got none of sample {number} of {completion['id']!r}; run the stage `score` again"
        )
    return found


def _answer(model: str, of_item: Record, completion: Record) -> Answer:
    verdict, samples = verdict_of(of_item, completion), of_item.get("samples")
    beside = ""
    if samples:
        beside = f"sample 0 of {len(samples)}, of which {num_right(samples)} are right; the page of all items has every one"
    return Answer(
        model=model,
        outcome=verdict["outcome"],
        answer=None if verdict["answer"] is None else as_field(verdict["answer"]),
        rule=verdict["rule"],
        finish_reason=verdict["finish_reason"],
        num_completion_tokens=verdict["num_completion_tokens"],
        completion=as_text(_without_thought(completion)),
        beside=beside,
    )


def _without_thought(completion: Record) -> str:
    """What is shown of a completion: an example is short, and a thought would leave no room for the answer."""
    whole, said = str(completion["completion"]), answer_of(completion)
    if said is None:
        return whole
    length = len(whole) - len(said)
    return said if not length else f"[a thought of {length} characters, on the page of all items]\n{said}"
