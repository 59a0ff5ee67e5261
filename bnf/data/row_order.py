"""Which groups each row holds, without torch: for pages that show stored values of a few groups, and load nothing more for it.

`bnf.data.packing.pack` decides it for training and reference. Its module is part of the key of every reference and policy, which an edit
would have computed anew: so the rule stands here once more, and whoever reads values by it compares its digest with theirs.
"""

from collections.abc import Sequence
from hashlib import sha256

from bnf.data.groups import ChosenGroups, PromptGroup, tokens_digest

_OPEN_ROWS = 32


def row_order(
    groups: Sequence[PromptGroup], max_tokens_per_row: int, *, max_groups_per_row: int | None, share_prompts: bool
) -> list[tuple[int, ...]]:
    """The places in the data set of each row's groups: those of `pack`."""
    sizes = [_tokens(group, share_prompts) for group in groups]
    digest = tokens_digest(groups)
    rows: list[list[int]] = []
    open_rows: list[tuple[list[int], int]] = []
    for index in sorted(range(len(groups)), key=lambda index: sha256(f"{digest}:{index}".encode()).digest()):
        place = next((place for place, (_, free) in enumerate(open_rows) if free >= sizes[index]), None)
        if place is None:
            rows.append([])
            open_rows = [*open_rows, (rows[-1], max_tokens_per_row)][-_OPEN_ROWS:]
            place = len(open_rows) - 1
        row, free = open_rows[place]
        row.append(index)
        open_rows[place] = (row, free - sizes[index])
        if len(row) == max_groups_per_row:
            open_rows.pop(place)
    return [tuple(row) for row in rows]


def order_digest(groups: Sequence[PromptGroup], rows: Sequence[tuple[int, ...]]) -> str:
    """The digest that stored values of these rows have: that of `rows_digest`."""
    digest = sha256()
    for row in rows:
        digest.update(f"{row}{tokens_digest(ChosenGroups(groups, row))}".encode())
    return digest.hexdigest()


def _tokens(group: PromptGroup, share_prompts: bool) -> int:
    copies = 1 if share_prompts else len(group.completions)
    return group.num_tokens + (copies - 1) * len(group.prompt_ids)
