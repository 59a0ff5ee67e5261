"""A page for each scored benchmark with all of its items, to search and to filter: `items/gsm8k.html` beside report.html.

Thousands of items are in the page as data, of which a script of the page's own shows 50 at a time. It needs no network and no other file.
What models wrote is data of a type that no browser executes. The script puts it into the page as text alone, and the page's policy lets no
other script run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from evaluation import formats
from evaluation.records import Record, read_json, replacing
from evaluation.report.build import REPORT_FILE, environment
from evaluation.report.examples import gist_of
from evaluation.report.excerpts import LIMITS, Excerpt, as_field, as_text
from evaluation.report.inputs import MODELS, ReportInputs
from evaluation.report.items import Items, Reply, by_id, filters_of, require_all
from evaluation.report.summary import label

FOLDER = "items"
# What the texts of a page may take together.
PAGE_CHARACTERS = 12_000_000


@dataclass(frozen=True)
class _CutReply:
    """A reply, with its texts cut."""

    reply: Reply
    thought: Excerpt | None
    completion: Excerpt | None

    def shortened(self, most_characters: int) -> _CutReply:
        thought, completion = (part and part.shortened(most_characters) for part in (self.thought, self.completion))
        return replace(self, thought=thought, completion=completion)

    @property
    def num_characters(self) -> int:
        return sum(part.num_characters for part in (self.thought, self.completion) if part is not None)


@dataclass(frozen=True)
class _Row:
    """An item of the page; `outcome` is the last model's."""

    id: str
    kind: str
    outcome: str
    fields: Sequence[tuple[str, Excerpt]]
    replies: Sequence[_CutReply]

    def shortened(self, most_characters: int) -> _Row:
        fields = [(name, part.shortened(most_characters)) for name, part in self.fields]
        return replace(self, fields=fields, replies=[one.shortened(most_characters) for one in self.replies])

    @property
    def num_characters(self) -> int:
        return sum(part.num_characters for _, part in self.fields) + sum(one.num_characters for one in self.replies)


def build_item_pages(inputs: ReportInputs, output_dir: Path) -> dict[str, str]:
    """Writes a page for every benchmark whose scores and completions are there; returns the pages' paths in `output_dir`, by benchmark.

    Raises:
        ValueError: where a stage's file is ill-formed, or lacks a scored item.
    """
    pages: dict[str, str] = {}
    for name, scores in inputs.scores.items():
        generations = inputs.generations.get(name, {})
        models = [model for model in MODELS if model in scores and model in generations]
        items = Items({model: scores[model] for model in models}, {model: generations[model] for model in models})
        if not items.kinds:
            continue
        shown = label(name, read_json(scores[models[0]] / "summary.json"))
        pages[name] = f"{FOLDER}/{name}.html"
        (output_dir / FOLDER).mkdir(parents=True, exist_ok=True)
        with replacing(output_dir / pages[name]) as partial:
            partial.write_text(render(inputs.name, name, shown, items), encoding="utf-8")
    return pages


def render(run: str, name: str, title: str, items: Items) -> str:
    """The HTML of a benchmark's page; `title` says also where its items are from."""
    rows = _rows(items)
    fitting = (limit for limit in LIMITS if sum(one.shortened(limit).num_characters for one in rows) <= PAGE_CHARACTERS)
    limit = next(fitting, LIMITS[-1])
    data = [_to_json(row.shortened(limit)) for row in rows]
    script = (Path(__file__).parent / "templates" / "items.js").read_text(encoding="utf-8")
    counts = {name: sum(name in one["filters"] for one in data) for name in items.filters}
    return (
        environment()
        .get_template("items.html.j2")
        .render(
            run=run,
            name=name,
            benchmark=title,
            report=f"../{REPORT_FILE}",
            policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src '{_digest(script)}'",
            script=Markup(script),
            data=as_data(data),
            num_items=len(data),
            num_left_out=items.num_left_out,
            counts=counts,
            models=items.models,
            most_characters=limit,
        )
    )


def as_data(value: object) -> Markup:
    """JSON that may stand in a `script` element: no tag begins in it, so nothing in it ends the element or begins another one."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _digest(script: str) -> str:
    """The script as the page's policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _rows(items: Items) -> list[_Row]:
    # A text may have megabytes: each is cut as it is read.
    fields = {id: [(name, as_field(value)) for name, value in found.items()] for id, found in items.fields(items.kinds)}
    replies = {model: by_id((id, _cut(reply)) for id, reply in items.replies(model, items.kinds)) for model in items.models}
    require_all(items.kinds, fields, *replies.values())
    return [
        _Row(id, kind, items.outcome(id), fields[id], [reply for of in replies.values() for reply in of[id]])
        for id, kind in items.kinds.items()
    ]


def _cut(reply: Reply) -> _CutReply:
    thought, completion = (None if text is None else as_text(text) for text in (reply.thought, reply.completion))
    return _CutReply(replace(reply, thought=None, completion=None), thought, completion)


def _to_json(row: _Row) -> Record:
    """An item as the page's script reads it; a text is [what is shown of it, the number of characters left out]. Those are missing after
    it, or before so many of the shown characters as `ends` says.
    """
    return {
        "id": formats.visible(row.id),
        "kind": row.kind,
        "filters": filters_of(row.kind, row.outcome),
        "gist": formats.visible(gist_of(row.fields) or row.id),
        "fields": [[formats.visible(name), *_text(part)] for name, part in row.fields],
        "replies": [_reply(one) for one in row.replies],
    }


def _reply(one: _CutReply) -> Mapping[str, object]:
    reply = one.reply
    ends = {"thought": _end(one.thought), "completion": _end(one.completion)}
    several = {"sample": reply.sample, "votes": reply.votes} if reply.sample is not None else {}
    return {
        "model": reply.model,
        **several,
        "outcome": reply.outcome,
        "answer": None if reply.answer is None else formats.visible(as_field(reply.answer).text),
        "rule": reply.rule,
        "ended": reply.finish_reason and formats.visible(reply.finish_reason),
        "tokens": reply.num_completion_tokens,
        "thought": one.thought and _text(one.thought),
        "completion": one.completion and _text(one.completion),
        **({"ends": ends} if any(ends.values()) else {}),
    }


def _text(part: Excerpt) -> list[object]:
    return [formats.visible(part.text) + formats.visible(part.end), part.num_left_out]


def _end(part: Excerpt | None) -> int:
    return len(formats.visible(part.end)) if part else 0
