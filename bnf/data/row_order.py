"""Which groups each row holds. Without torch: a page that shows stored values of a few groups loads nothing more for it."""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from bnf.data.groups import PromptGroup, tokens_digest

# How many rows are filled at the same time: enough for tight rows, and packing stays linear in the number of groups.
_OPEN_ROWS = 32


def row_order(
    groups: Sequence[PromptGroup], max_tokens_per_row: int, *, max_groups_per_row: int | None, share_prompts: bool
) -> list[tuple[int, ...]]:
    """The places in the data set of each row's groups, of which none is longer than a row. The same groups always give the same rows.

    The groups are shuffled by the digest of their token ids, so that neighbours in the data set (one source, one length) are spread over
    rows. A group is never split, also not in plain packing: objectives compare its completions.
    """
    sizes = [tokens_in_row(group, share_prompts) for group in groups]
    digest = tokens_digest(groups)
    rows: list[list[int]] = []
    open_rows: list[tuple[list[int], int]] = []
    for index in sorted(range(len(groups)), key=lambda index: sha256(f"{digest}:{index}".encode()).digest()):
        size = sizes[index]
        place = next((place for place, (_, free) in enumerate(open_rows) if free >= size), None)
        if place is None:
            rows.append([])
            open_rows.append((rows[-1], max_tokens_per_row))
            if len(open_rows) > _OPEN_ROWS:
                open_rows.pop(0)
            place = len(open_rows) - 1
        row, free = open_rows[place]
        row.append(index)
        open_rows[place] = (row, free - size)
        if len(row) == max_groups_per_row:
            open_rows.pop(place)
    return [tuple(row) for row in rows]


def order_digest(rows: Iterable[tuple[tuple[int, ...], Sequence[PromptGroup]]]) -> str:
    """A digest of the rows' token ids and layout, from the places and the groups of each. Cached log-probabilities fit rows of the same
    digest."""
    digest = sha256()
    for places, groups in rows:
        digest.update(f"{places}{tokens_digest(groups)}".encode())
    return digest.hexdigest()


def tokens_in_row(group: PromptGroup, share_prompts: bool) -> int:
    """How many tokens of a row a group takes."""
    copies = 1 if share_prompts else len(group.completions)
    return group.num_tokens + (copies - 1) * len(group.prompt_ids)
