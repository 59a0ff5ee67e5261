"""What ledger.json holds: counts of rows by their outcomes, and statistics of the groups."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TypedDict

from evaluation.records import Record

# Outcomes of rows that are in the groups, wholly or with one side.
KEPT = ("kept", "masked", "dev")
# Outcomes of rows that are used, or left out because they repeat another row or because the recipe asks for it.
USED = (*KEPT, "duplicate", "tie", "middle", "unsampled", "reward_gap", "no_contrast")
# The outcome of rows behind `data.limit`, which are not looked at any further.
BEYOND_LIMIT = "beyond_limit"
# Outcomes that don't count as lost.
NOT_LOST = (*USED, BEYOND_LIMIT)


class Histogram(TypedDict):
    """How many values lie between each edge and the next; values beyond the last edge are in the last count."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics of the groups of a data set; lengths are in tokens.

    Attributes:
        num_offline: groups of `offline_mix`.
        num_contradictions: texts that a group has as preferred and as dispreferred.
        prompt_share: the prompts' part of all tokens.
        languages: by ISO 639 code, the most frequent first.
    """

    num_groups: int
    num_offline: int
    num_pairs: int
    num_preferred: int
    num_dispreferred: int
    num_contradictions: int
    groups_by_labels: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    prompt_share: float
    prompt_length: dict[str, float]
    completion_length: dict[str, float]
    group_length: dict[str, float]
    languages: dict[str, int]
    histograms: dict[str, Histogram]


@dataclass(frozen=True)
class LedgerCounts:
    """What ledger.json holds: counts of the rows' outcomes, and the statistics of the groups that were made of them.

    Attributes:
        rows: outcome → rows.
        completions_left_out: outcome → completions that were left out of a list.
        dev: numbers of groups and pairs in the dev set.
        columns_not_read: source → column → rows that have text there.
        sources: of several sources, the outcomes of each.
    """

    source: str
    num_rows: int
    rows: dict[str, int]
    completions_left_out: dict[str, int]
    dropped_share: float
    num_flipped: int
    num_contradicted: int
    num_truncated: int
    num_changed: int
    num_still_there: int
    groups: GroupStatistics
    dev: dict[str, int]
    columns_not_read: dict[str, dict[str, int]]
    sources: list[Record]

    def to_json(self) -> Record:
        """The counts, with the groups' statistics beside them. `columns_not_read` and `sources` are left out where they are empty."""
        found = asdict(self)
        flat: Record = {}
        for name, value in found.items():
            flat |= value if name == "groups" else {name: value}
        return {name: value for name, value in flat.items() if value or name not in ("columns_not_read", "sources")}

    @classmethod
    def from_json(cls, found: Record) -> LedgerCounts:
        """The counts of a ledger.json."""
        own = {one.name: found[one.name] for one in fields(cls) if one.name in found}
        groups = GroupStatistics(**{one.name: found[one.name] for one in fields(GroupStatistics)})
        return cls(**{"columns_not_read": {}, "sources": [], **own, "groups": groups})
