"""Counts prompt groups as they are written: lengths, labels, languages, and the histograms that the report shows."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from itertools import accumulate

from bnf.data.groups import PromptGroup
from data.preparing.counts import GroupStatistics, Histogram

# Lengths are counted between powers of two, in tokens.
_LENGTH_EDGES = [0, *(2**power for power in range(4, 16))]
_SHARE_EDGES = [round(0.1 * step, 1) for step in range(11)]


class GroupCounter:
    """Counts groups, with a number in memory for each length that occurs."""

    def __init__(self) -> None:
        self._lengths: dict[str, Counter[int]] = {name: Counter() for name in ("prompt", "preferred", "dispreferred", "group")}
        self._shares = [0] * (len(_SHARE_EDGES) - 1)
        self._counts: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()

    @property
    def num_groups(self) -> int:
        return self._lengths["prompt"].total()

    def add(self, group: PromptGroup, language: str, num_contradictions: int, *, offline: bool = False) -> None:
        self._lengths["prompt"][len(group.prompt_ids)] += 1
        self._lengths["group"][group.num_tokens] += 1
        share = bisect_right(_SHARE_EDGES, len(group.prompt_ids) / group.num_tokens) - 1
        self._shares[min(share, len(self._shares) - 1)] += 1
        for completion in group.completions:
            self._lengths["preferred" if completion.label > 0 else "dispreferred"][len(completion.token_ids)] += 1
        labels = {completion.label for completion in group.completions}
        self._counts["both" if len(labels) == 2 else "preferred_only" if 1 in labels else "dispreferred_only"] += 1
        self._counts["pairs"] += len(group.pairs)
        self._counts["contradictions"] += num_contradictions
        self._counts["offline"] += offline
        self._languages[language] += 1

    def update(self, other: GroupCounter) -> None:
        """Adds the groups that another one counted."""
        for name, lengths in self._lengths.items():
            lengths.update(other._lengths[name])
        self._shares = [*map(sum, zip(self._shares, other._shares, strict=True))]
        self._counts.update(other._counts)
        self._languages.update(other._languages)

    def statistics(self) -> GroupStatistics:
        """The statistics of all groups that were added."""
        prompt, preferred, dispreferred = (self._lengths[name] for name in ("prompt", "preferred", "dispreferred"))
        completions = preferred + dispreferred
        prompt_tokens, completion_tokens = _sum(prompt), _sum(completions)
        total = prompt_tokens + completion_tokens
        return GroupStatistics(
            num_groups=self.num_groups,
            num_offline=self._counts["offline"],
            num_pairs=self._counts["pairs"],
            num_preferred=preferred.total(),
            num_dispreferred=dispreferred.total(),
            num_contradictions=self._counts["contradictions"],
            groups_by_labels={name: self._counts[name] for name in ("both", "preferred_only", "dispreferred_only")},
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            prompt_share=prompt_tokens / total if total else 0.0,
            prompt_length=_quantiles(prompt),
            completion_length=_quantiles(completions),
            group_length=_quantiles(self._lengths["group"]),
            languages=dict(sorted(self._languages.items(), key=lambda item: (-item[1], item[0]))),
            histograms={
                **{f"{name}_length": _histogram(self._lengths[name]) for name in ("prompt", "preferred", "dispreferred")},
                "prompt_share": {"edges": list(_SHARE_EDGES), "counts": list(self._shares)},
            },
        )


def _sum(lengths: Counter[int]) -> int:
    return sum(length * count for length, count in lengths.items())


def _histogram(lengths: Counter[int]) -> Histogram:
    counts = [0] * (len(_LENGTH_EDGES) - 1)
    for length, count in lengths.items():
        counts[min(bisect_right(_LENGTH_EDGES, length), len(counts)) - 1] += count
    return {"edges": list(_LENGTH_EDGES), "counts": counts}


def _quantiles(lengths: Counter[int]) -> dict[str, float]:
    """Nearest-rank quantiles and the mean; empty for no data."""
    if not lengths:
        return {}
    ordered = sorted(lengths)
    # How many lengths are up to each of them.
    up_to = [*accumulate(lengths[length] for length in ordered)]
    total = up_to[-1]
    ranks = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: ordered[bisect_right(up_to, round(share * (total - 1)))] for name, share in ranks.items()} | {
        "mean": _sum(lengths) / total
    }
