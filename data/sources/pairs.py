"""Preference pairs in TRL's explicit-prompt schema: JSON Lines (also `.gz`) with `prompt`, `chosen` and `rejected`.

Each of the three is text or a list of messages; `chosen` and `rejected` may repeat the prompt's messages before the reply.
https://huggingface.co/docs/trl/dataset_formats#preference
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.sources._rows import BadRow, PairRow, as_messages, completion_text, read_json_lines

_COLUMNS = ("prompt", "chosen", "rejected")


def rows(path: Path) -> Iterator[PairRow | BadRow]:
    """Yields one row per line; the id is the row's own `id`, or its line number."""
    for parsed in read_json_lines(path):
        if isinstance(parsed, BadRow):
            yield parsed
            continue
        line, row = parsed
        missing = [name for name in _COLUMNS if name not in row]
        if missing:
            yield BadRow(line, "bad_schema", f"must have {', '.join(_COLUMNS)}, got no {', '.join(missing)}")
            continue
        column = "prompt"
        try:
            messages = as_messages(row["prompt"], "user")
            column = "chosen"
            chosen = completion_text(row["chosen"], messages)
            column = "rejected"
            rejected = completion_text(row["rejected"], messages)
        except ValueError as error:
            yield BadRow(line, "bad_schema", f"{column} {error}")
            continue
        yield PairRow(line, str(row.get("id", line)), messages, chosen, rejected)
