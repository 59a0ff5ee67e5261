"""`data.limit`: the rows of a source's first prompts. All others are left out, with a line of the ledger each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from bnf.data.system_prompt import with_system_prompt
from data.parse import Parser
from data.preparing.counts import BEYOND_LIMIT
from data.preparing.render import prompt_digest
from data.reading.records import Bad, DataSource, Raw


def limited(raws: Iterable[Raw], source: DataSource, system_prompt: str | None = None) -> Iterator[Raw]:
    """The records, those beyond the first `source.limit` prompts without their content.

    Prompts count in the order in which they first appear, and all rows of a prompt that counts are taken, wherever they stand: so the
    source is read to its end. Rows count before a template or a tokenizer sees them, so every model gets the same prompts. A row that
    can't be read is no prompt's.

    Raises:
        ValueError: as `Parser`.
    """
    if source.limit is None:
        yield from raws
        return
    parse, first = Parser(source), set[bytes]()
    left_out = Bad(BEYOND_LIMIT, f"data.limit takes the first {source.limit} prompts")
    for raw in raws:
        _, row = parse(raw)
        if isinstance(row, Bad):
            yield raw
            continue
        digest = prompt_digest(with_system_prompt(row.messages, system_prompt), row.context)
        if len(first) < source.limit:
            first.add(digest)
        yield raw if digest in first else replace(raw, value=left_out)
