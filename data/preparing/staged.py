"""A rendered row as staging takes it: its digests, its place in every seeded choice, and its texts and token ids as they are stored. All of
it follows from the row and the seed alone, so the processes that render rows make it too."""

from __future__ import annotations

import hashlib
import json
from array import array
from typing import NamedTuple

from data.preparing.render import RenderedRow, prompt_digest


class StagedCandidate(NamedTuple):
    text: str
    ids: bytes
    label: int | None
    score: float | None
    origin: str
    outcome: str


class StagedPrompt(NamedTuple):
    """A row's prompt; `mixture_rank` and `dev_rank` are its places in the choices of these names."""

    digest: bytes
    messages: str
    context: str
    ids: bytes
    language: str
    mixture_rank: bytes
    dev_rank: bytes


class StagedRow(NamedTuple):
    """A row with its prompt, or with the `outcome` and `detail` that say why there is none.

    Attributes:
        content: a digest that two rows share exactly where they say the same.
        more: what the ledger's line of the row has beside its outcome, as JSON.
    """

    file: str
    line: int
    id: str
    source: int
    outcome: str
    detail: str
    unread: tuple[str, ...]
    tie: bool = False
    listed: bool = False
    more: str = "{}"
    content: bytes | None = None
    prompt: StagedPrompt | None = None
    candidates: tuple[StagedCandidate, ...] = ()


def staged(row: RenderedRow, seed: int) -> StagedRow:
    """The row for staging."""
    plain = StagedRow(row.file, row.line, row.id, row.source, row.outcome, row.detail, row.unread, row.tie, row.listed)
    if row.outcome:
        return plain
    digest = prompt_digest(row.messages, row.context)
    said = [(one.candidate.text, one.candidate.label, one.candidate.score) for one in row.candidates]
    marks = {"truncated": row.truncated, "changed": sum(one.changed for one in row.candidates)}
    return plain._replace(
        more=json.dumps({name: mark for name, mark in marks.items() if mark}),
        content=hashlib.sha256(digest + repr(said).encode()).digest()[:16],
        prompt=StagedPrompt(
            digest,
            json.dumps(row.messages, ensure_ascii=False),
            json.dumps(row.context, ensure_ascii=False),
            array("i", row.prompt_ids).tobytes(),
            row.language,
            rank(seed, "mixture", digest.hex()),
            rank(seed, "dev", digest.hex()),
        ),
        candidates=tuple(
            StagedCandidate(
                one.candidate.text,
                array("i", one.ids).tobytes(),
                one.candidate.label,
                one.candidate.score,
                one.candidate.origin,
                one.outcome,
            )
            for one in row.candidates
        ),
    )


def rank(seed: int, choice: str, name: str) -> bytes:
    """The place of an item in the order of a seeded choice. It depends on the seed, the choice and the item's name alone, so that the
    items of a smaller share are among those of a larger one."""
    return hashlib.sha256(f"{seed}:{choice}:{name}".encode()).digest()[:8]
