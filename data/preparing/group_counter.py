"""Counts prompt groups as they are written: lengths, labels, languages, and the histograms that the report shows."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from bnf.data.groups import PromptGroup
from data.preparing.counts import GroupStatistics, Histogram

# Lengths are counted between powers of two, in tokens.
_LENGTH_EDGES = [0, *(2**power for power in range(4, 16))]
_SHARE_EDGES = [round(0.1 * step, 1) for step in range(11)]


class GroupCounter:
    """Counts groups, with a few numbers per completion in memory."""

    def __init__(self) -> None:
        self._lengths = {name: array("i") for name in ("prompt", "preferred", "dispreferred", "group")}
        self._shares = array("d")
        self._counts: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()

    @property
    def num_groups(self) -> int:
        return len(self._lengths["prompt"])

    def add(self, group: PromptGroup, language: str, num_contradictions: int, *, offline: bool = False) -> None:
        self._lengths["prompt"].append(len(group.prompt_ids))
        self._lengths["group"].append(group.num_tokens)
        self._shares.append(len(group.prompt_ids) / group.num_tokens)
        for completion in group.completions:
            self._lengths["preferred" if completion.label > 0 else "dispreferred"].append(len(completion.token_ids))
        labels = {completion.label for completion in group.completions}
        self._counts["both" if len(labels) == 2 else "preferred_only" if 1 in labels else "dispreferred_only"] += 1
        self._counts["pairs"] += len(group.pairs)
        self._counts["contradictions"] += num_contradictions
        self._counts["offline"] += offline
        self._languages[language] += 1

    def statistics(self) -> GroupStatistics:
        """The statistics of all groups that were added."""
        prompt, preferred, dispreferred = (self._lengths[name] for name in ("prompt", "preferred", "dispreferred"))
        prompt_tokens, completion_tokens = sum(prompt), sum(preferred) + sum(dispreferred)
        total = prompt_tokens + completion_tokens
        return GroupStatistics(
            num_groups=len(prompt),
            num_offline=self._counts["offline"],
            num_pairs=self._counts["pairs"],
            num_preferred=len(preferred),
            num_dispreferred=len(dispreferred),
            num_contradictions=self._counts["contradictions"],
            groups_by_labels={name: self._counts[name] for name in ("both", "preferred_only", "dispreferred_only")},
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            prompt_share=prompt_tokens / total if total else 0.0,
            prompt_length=_quantiles(prompt),
            completion_length=_quantiles(preferred + dispreferred),
            group_length=_quantiles(self._lengths["group"]),
            languages=dict(sorted(self._languages.items(), key=lambda item: (-item[1], item[0]))),
            histograms={
                **{
                    f"{name}_length": _histogram(_LENGTH_EDGES, self._lengths[name])
                    for name in ("prompt", "preferred", "dispreferred")
                },
                "prompt_share": _histogram(_SHARE_EDGES, self._shares),
            },
        )


def _histogram(edges: Sequence[float], values: Sequence[float]) -> Histogram:
    counts = [sum(low <= value < high for value in values) for low, high in pairwise(edges)]
    counts[-1] += sum(value >= edges[-1] for value in values)
    return {"edges": list(edges), "counts": counts}


def _quantiles(lengths: Sequence[int]) -> dict[str, float]:
    """Nearest-rank quantiles and the mean; empty for no data."""
    if not lengths:
        return {}
    ordered = sorted(lengths)
    ranks = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in ranks.items()} | {
        "mean": sum(ordered) / len(ordered)
    }
