"""Renders raw records: each becomes a row with token ids, or gets the outcome that says why it can't. Worker processes call it with a
chunk of records at a time."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bnf.data.chat_template import RenderingError
from bnf.data.marked import NO_CONTEXT, Context, texts_of
from bnf.data.system_prompt import with_system_prompt
from data.parse import Parser
from data.preparing.config import PrepareConfig
from data.preparing.languages import language_of_prompt
from data.reading.records import Bad, DataSource, Raw
from data.rows import Candidate, Row
from evaluation.types import Message

# Half of a surrogate pair, as JSON's \ud800 gives without its other half.
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class RenderedCandidate:
    """A candidate with its token ids, or with the `outcome` that says why there are none."""

    candidate: Candidate
    ids: Sequence[int] = ()
    outcome: str = ""
    changed: bool = False


@dataclass(frozen=True)
class RenderedRow:
    """One record's row with its token ids, or the `outcome` and `detail` that say why there is none.

    `listed` says that the row is a list of completions: one may be left out and the others stay. A pair needs both of its sides.
    """

    file: str
    line: int
    id: str
    source: int = 0
    outcome: str = ""
    detail: str = ""
    messages: list[Message] = field(default_factory=list)
    prompt_ids: Sequence[int] = ()
    candidates: Sequence[RenderedCandidate] = ()
    tie: bool = False
    listed: bool = False
    truncated: str = ""
    language: str = ""
    context: Context = field(default_factory=dict)
    unread: tuple[str, ...] = ()


class Left(Exception):
    """A row or completion is left out, with this outcome in the ledger and a detail for people."""

    def __init__(self, outcome: str, detail: str = "") -> None:
        super().__init__(outcome, detail)
        self.outcome, self.detail = outcome, detail


class RowRenderer:
    """Renders chunks of records with a model's tokenizer.

    Raises:
        ValueError: where the model has no chat template.
    """

    def __init__(self, model_dir: Path, sources: Sequence[DataSource], config: PrepareConfig) -> None:
        from bnf.data.rendering import Renderer, load_tokenizer

        self._config = config
        tokenizer = load_tokenizer(model_dir, config.date)
        self._renderer = Renderer(tokenizer, config.completion_span, config.changed_completions)
        self._parsers = [Parser(source) for source in sources]

    def __call__(self, chunk: Sequence[tuple[int, Raw]]) -> list[RenderedRow]:
        """The chunk's rows in their order.

        Raises:
            ValueError: a row is too long and `truncation` is "raise".
        """
        found = []
        for source, raw in chunk:
            id, parsed = self._parsers[source](raw)
            if len(self._parsers) > 1:
                id = f"{source}:{id}"
            row = RenderedRow(raw.file, raw.line, id, source)
            try:
                if isinstance(parsed, Bad):
                    raise Left(parsed.reason, parsed.detail)
                row = self._checked(row, self._with_system_prompt(parsed))
            except Left as left:
                # The id itself may be what can't be written.
                row = replace(row, id=_SURROGATES.sub("\ufffd", row.id), outcome=left.outcome, detail=left.detail)
            found.append(row)
        return self._rendered(found)

    def _with_system_prompt(self, parsed: Row) -> Row:
        return replace(parsed, messages=with_system_prompt(parsed.messages, self._config.system_prompt))

    def _checked(self, row: RenderedRow, parsed: Row) -> RenderedRow:
        """The row with its messages and its candidates' texts, checked."""
        said = texts_of(parsed.messages, parsed.context)
        texts = [row.id, *said, *(text for one in parsed.candidates for text in (one.text, one.origin))]
        if parsed.context or any(len(message) > 2 for message in parsed.messages):
            texts.append(json.dumps([parsed.messages, parsed.context], ensure_ascii=False))  # the keys of calls and tools too
        for text in texts:
            if _SURROGATES.search(text):
                raise Left("not_utf8", "a text holds half of a surrogate pair, which no encoding can write")
        if not said:
            raise Left("empty", "prompt must hold text, got none")
        control = sorted({name for text in said for name in self._renderer.control_tokens(text)})
        if control:
            raise Left("unrenderable", f"a prompt's text must hold no control token, got {control}; remove it from the data")
        if not parsed.candidates:
            raise Left("no_completion", "the row holds no completion")
        paired = parsed.is_pair
        if paired or parsed.tie:
            for side, one in zip(("chosen", "rejected"), parsed.candidates, strict=False):
                if not one.text.strip():
                    raise Left("empty", f"{side} must hold text, got {one.text!r}")
            if len({one.text for one in parsed.candidates}) < len(parsed.candidates):
                raise Left("identical_pair", "chosen and rejected are the same text")
        candidates = [RenderedCandidate(one, (), _unusable(one)) for one in parsed.candidates]
        return replace(
            row,
            messages=parsed.messages,
            candidates=candidates,
            tie=parsed.tie,
            listed=len(candidates) > 1 and not paired and not parsed.tie,
            language=language_of_prompt(parsed.messages),
            context=parsed.context,
            unread=parsed.unread,
        )

    def _rendered(self, rows: list[RenderedRow]) -> list[RenderedRow]:
        """The rows with token ids; one prompt's rows in a chunk share its rendering."""
        from bnf.data.rendering import Conversation

        conversations: dict[bytes, Conversation] = {}
        for row in rows:
            if not row.outcome:
                key = prompt_digest(row.messages, row.context)
                replies = conversations.setdefault(key, Conversation(row.messages, [], row.context)).replies
                assert isinstance(replies, list)
                replies += [one.candidate.reply for one in row.candidates]
        rendered = dict(zip(conversations, self._renderer.render(list(conversations.values())), strict=True))
        finished = []
        taken = dict.fromkeys(rendered, 0)
        for row in rows:
            if row.outcome:
                finished.append(row)
                continue
            key = prompt_digest(row.messages, row.context)
            prompt = rendered[key]
            try:
                if isinstance(prompt, RenderingError):
                    raise Left("unrenderable", str(prompt))
                start, taken[key] = taken[key], taken[key] + len(row.candidates)
                numbers = range(start, taken[key])
                marked = [
                    replace(one, changed=number in prompt.changed) for one, number in zip(row.candidates, numbers, strict=True)
                ]
                row = replace(row, candidates=marked)
                finished.append(self._within_limits(row, prompt.prompt_ids, prompt.completions[start : taken[key]]))
            except Left as left:
                finished.append(replace(row, outcome=left.outcome, detail=left.detail, messages=[], candidates=()))
        return finished

    def _within_limits(
        self, row: RenderedRow, prompt_ids: list[int], completions: Sequence[list[int] | Exception]
    ) -> RenderedRow:
        """The row with its token ids, as far as they keep within the limits."""
        config = self._config
        where = named_place(row.line, row.file)
        truncated = ""
        if len(prompt_ids) > config.max_prompt_length and config.truncation == "truncate_prompt":
            prompt_ids, truncated = prompt_ids[-config.max_prompt_length :], "prompt"
        check_length("max_prompt_length", len(prompt_ids), config, where)
        room = config.max_length - len(prompt_ids)
        finished, lost = [], []
        for one, ids in zip(row.candidates, completions, strict=True):
            try:
                if one.outcome:
                    raise Left(
                        one.outcome, f"a completion must hold {'text' if one.outcome == 'empty' else 'a rating'}, got none"
                    )
                if isinstance(ids, Exception):
                    raise Left("unrenderable", str(ids))
                if one.changed and len(ids) == 1:
                    raise Left("empty", "a completion must hold text, got one of which the chat template writes nothing")
                if len(ids) > room > 0 and config.truncation == "truncate_completion":
                    ids, truncated = ids[:room], "completion"
                check_length("max_length", len(prompt_ids) + len(ids), config, where)
                finished.append(replace(one, ids=array("i", ids)))
            except Left as left:
                finished.append(replace(one, outcome=left.outcome))
                lost.append(left)
        if lost and (not row.listed or len(lost) == len(finished)):
            # A pair needs both of its sides, and a list at least one completion.
            outcomes = {left.outcome for left in lost}
            raise Left(lost[0].outcome if len(outcomes) == 1 or not row.listed else "no_completion", lost[0].detail)
        if not row.listed and len(finished) == 2 and finished[0].ids == finished[1].ids:
            raise Left("identical_pair", "chosen and rejected have the same token ids")
        return replace(row, prompt_ids=array("i", prompt_ids), candidates=finished, truncated=truncated)


def _unusable(one: Candidate) -> str:
    """The outcome of a completion from which nothing can be learned; empty for any other."""
    if not one.text.strip():
        return "empty"
    return "unrated" if one.label is None and one.score is None else ""


def check_length(name: str, length: int, config: PrepareConfig, where: str) -> None:
    """Refuses a length above `prepare.<name>`.

    Raises:
        Left: the row is left out.
        ValueError: `truncation` is "raise".
    """
    limit = getattr(config, name)
    if length > limit:
        detail = f"prepare.{name} must hold the row, got {length} tokens against {limit}"
        if config.truncation == "raise":
            raise ValueError(f"{detail} at {where}; raise the limit or set prepare.truncation=drop")
        raise Left("over_length", detail)


def named_place(line: int, file: str, source: str = "") -> str:
    """Where a row lies, for messages: its line, its file and its source, as far as they are named."""
    return f"line {line}" + (f" of {file}" if file else "") + (f" of source {source}" if source else "")


def prompt_digest(messages: Sequence[Message], context: Context = NO_CONTEXT) -> bytes:
    """A digest that two rows share exactly where they have the same prompt."""
    said = [messages, context] if context else messages
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass")).digest()[:16]
