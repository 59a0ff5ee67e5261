"""The ledger: what became of every input row, and why. Nothing is lost in silence."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnf.data.groups import PromptGroup
from evaluation.records import write_whole

if TYPE_CHECKING:
    from data.preparing.staging import Workbench

# Rows that are in the groups, wholly or with one side; rows that repeat another one say nothing that is lost, and what the recipe
# asks to leave out is not lost either.
KEPT = ("kept", "masked", "dev")
NOT_LOST = (*KEPT, "duplicate", "tie", "middle", "unsampled", "reward_gap", "no_contrast")

# Lengths are counted between powers of two, in tokens.
_LENGTH_EDGES = [0, *(2**power for power in range(4, 16))]
_SHARE_EDGES = [round(0.1 * step, 1) for step in range(11)]


class Statistics:
    """What the groups are like, a few numbers per completion."""

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

    def as_json(self) -> dict[str, Any]:
        prompt, preferred, dispreferred = (self._lengths[name] for name in ("prompt", "preferred", "dispreferred"))
        prompt_tokens, completion_tokens = sum(prompt), sum(preferred) + sum(dispreferred)
        total = prompt_tokens + completion_tokens
        return {
            "num_groups": len(prompt),
            "num_offline": self._counts["offline"],
            "num_pairs": self._counts["pairs"],
            "num_preferred": len(preferred),
            "num_dispreferred": len(dispreferred),
            "num_contradictions": self._counts["contradictions"],
            "groups_by_labels": {name: self._counts[name] for name in ("both", "preferred_only", "dispreferred_only")},
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "prompt_share": prompt_tokens / total if total else 0.0,
            "prompt_length": quantiles(prompt),
            "completion_length": quantiles(preferred + dispreferred),
            "group_length": quantiles(self._lengths["group"]),
            "languages": dict(sorted(self._languages.items(), key=lambda item: (-item[1], item[0]))),
            "histograms": {
                **{
                    f"{name}_length": _histogram(_LENGTH_EDGES, self._lengths[name])
                    for name in ("prompt", "preferred", "dispreferred")
                },
                "prompt_share": _histogram(_SHARE_EDGES, self._shares),
            },
        }


class Ledger:
    """The ledger of what lies on a workbench, once every row has its word."""

    def __init__(self, bench: Workbench, names: Sequence[str], unread: Mapping[int, Mapping[str, int]] | None = None) -> None:
        self._bench, self._names, self._unread = bench, names, unread or {}
        found = bench.run("select source, outcome, count(*) from rows group by source, outcome")
        self._by_source: dict[int, Counter[str]] = {}
        for source, outcome, count in found:
            self._by_source.setdefault(source, Counter())[outcome] = count
        self._rows = sum(self._by_source.values(), Counter())

    def write(self, output_dir: Path, groups: Statistics, dev_groups: Statistics) -> dict[str, Any]:
        """Writes ledger.jsonl, in the input's order, and ledger.json, its counts; gives the latter."""
        write_whole(output_dir / "ledger.jsonl", self._entries())
        left_out = self._bench.run(
            "select candidates.outcome, count(*) from candidates join rows on rows.no = row "
            "where candidates.outcome != '' and listed group by 1 order by 1"
        )
        marks = self._bench.run(
            "select coalesce(sum(json_extract(more, '$.flipped')), 0), coalesce(sum(json_extract(more, '$.contradicted')), 0), "
            "coalesce(sum(json_extract(more, '$.truncated') is not null), 0), "
            "coalesce(sum(json_extract(more, '$.changed') is not null), 0), "
            "coalesce(sum(json_extract(more, '$.still_there')), 0) from rows"
        ).fetchone()
        summary = {
            "source": ", ".join(dict.fromkeys(self._names)),
            "num_rows": self._rows.total(),
            "rows": dict(sorted(self._rows.items())),
            "completions_left_out": dict(left_out),
            "dropped_share": self.dropped_share,
            **dict(
                zip(
                    (f"num_{mark}" for mark in ("flipped", "contradicted", "truncated", "changed", "still_there")),
                    marks,
                    strict=True,
                )
            ),
            **groups.as_json(),
            "dev": {"num_groups": (dev := dev_groups.as_json())["num_groups"], "num_pairs": dev["num_pairs"]},
        }
        if self._unread:
            # Column → rows with text in it, by source.
            summary["columns_not_read"] = {
                self._names[source]: dict(columns) for source, columns in sorted(self._unread.items())
            }
        if len(self._names) > 1:
            summary["sources"] = [
                {"source": name, "rows": dict(sorted(self._by_source.get(number, Counter()).items()))}
                for number, name in enumerate(self._names)
            ]
        write_whole(output_dir / "ledger.json", [summary])
        return summary

    @property
    def dropped_share(self) -> float:
        return self._lost.total() / self._rows.total() if self._rows else 0.0

    @property
    def _lost(self) -> Counter[str]:
        return Counter({outcome: count for outcome, count in self._rows.items() if outcome not in NOT_LOST})

    def check_sources(self, ledger_file: Path) -> None:
        """Refuses a mixture of which one source gives nothing, however few of all rows it has.

        Raises:
            ValueError: naming the source and its first row.
        """
        if not any(self._rows[outcome] for outcome in NOT_LOST):
            return  # `check` says why nothing is left at all
        for number, name in enumerate(self._names):
            rows = self._by_source.get(number, Counter())
            if any(rows[outcome] for outcome in NOT_LOST):
                continue
            first = self._bench.run(
                "select file, line, outcome, detail from rows where source = ? order by no limit 1", number
            ).fetchone()
            got = "none"
            if first:
                file, line, outcome, detail = first
                place = f"line {line}" + (f" of {file}" if file else "")
                got = f"{rows.total()} that are all lost (first {place}: {outcome}" + (f", {detail})" if detail else ")")
            raise ValueError(
                f"data.{number} must give rows, got {got} in {name}; correct the data or data.columns, or take the source out "
                f"({ledger_file} lists every row)"
            )

    def check(self, max_dropped_share: float, ledger_file: Path) -> None:
        """Refuses data of which too much was lost.

        Raises:
            ValueError: naming the reasons, most frequent first, and the first row that was lost.
        """
        num_rows = self._rows.total()
        if not num_rows:
            raise ValueError(f"the data must hold at least one row, got none from {', '.join(self._names)}; correct data.path")
        kept = any(self._rows[outcome] for outcome in KEPT)
        if kept and self.dropped_share <= max_dropped_share:
            return
        counts = self._lost or self._rows
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        marks = ", ".join("?" * len(counts))
        source, file, line, outcome, detail = self._bench.run(
            f"select source, file, line, outcome, detail from rows where outcome in ({marks}) order by no limit 1", *counts
        ).fetchone()
        place = f"line {line}" + (f" of {file}" if file else "")
        # The number tells sources of one name apart.
        place += f" of source {source} ({self._names[source]})" if len(self._names) > 1 else ""
        first = f"{place}: {outcome}" + (f", {detail}" if detail else "")
        rule = f"be at most {max_dropped_share:.0%}" if kept else "leave at least one row"
        raise ValueError(
            f"the share of dropped rows must {rule}, got {self.dropped_share:.1%} of {num_rows} ({reasons}; first {first}); "
            f"correct the data ({ledger_file} lists every row)" + (" or raise prepare.max_dropped_share" if kept else "")
        )

    def _entries(self) -> Iterator[dict[str, Any]]:
        """One entry per input row, and after it one per completion that was left out of a list."""
        several = len(self._names) > 1
        left_out = self._bench.run(
            "select row, position, candidates.outcome from candidates join rows on rows.no = row "
            "where candidates.outcome != '' and listed order by row, position"
        )
        waiting = left_out.fetchone()
        for no, source, file, line, id, outcome, detail, more in self._bench.run(
            "select no, source, file, line, id, outcome, detail, more from rows order by no"
        ):
            place = ({"source": self._names[source]} if several else {}) | ({"file": file} if file else {}) | {"line": line}
            read = outcome not in ("bad_schema", "not_utf8", "no_assistant_turn", "prompts_differ")
            entry = {**place, "id": id if read else None, "outcome": outcome, **json.loads(more)}
            yield entry | ({"detail": detail} if detail else {})
            while waiting is not None and waiting[0] == no:
                yield {**place, "id": id, "completion": waiting[1], "outcome": waiting[2]}
                waiting = left_out.fetchone()


def _histogram(edges: Sequence[float], values: Sequence[float]) -> dict[str, list[Any]]:
    """Counts of the values from each edge up to the next; what is beyond the last counts to the last."""
    counts = [sum(low <= value < high for value in values) for low, high in pairwise(edges)]
    counts[-1] += sum(value >= edges[-1] for value in values)
    return {"edges": list(edges), "counts": counts}


def quantiles(lengths: Sequence[int]) -> dict[str, float]:
    """Nearest-rank quantiles in tokens; empty for no data."""
    if not lengths:
        return {}
    ordered = sorted(lengths)
    ranks = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in ranks.items()} | {
        "mean": sum(ordered) / len(ordered)
    }
