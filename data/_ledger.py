"""The ledger: what became of every input row, and why. Nothing is lost in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnf.groups import PromptGroup
from evaluation._records import write_whole

# Rows that are in the groups, wholly or with one side; rows that repeat another one say nothing that is lost.
KEPT = ("kept", "masked")
_NOT_LOST = (*KEPT, "duplicate")


class Ledger:
    """Collects one entry per input row, and one per completion that was left out of a row that is kept."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._rows: list[dict[str, Any]] = []
        self._completions: list[dict[str, Any]] = []

    def row(self, line: int, id: str | None, outcome: str, detail: str = "", **more: Any) -> None:
        """What became of the row on this line: "kept", "masked", or why it was left out."""
        entry = {"line": line, "id": id, "outcome": outcome, **more}
        self._rows.append(entry | ({"detail": detail} if detail else {}))

    def completion(self, line: int, id: str, index: int, outcome: str) -> None:
        """Why this completion of a row was left out."""
        self._completions.append({"line": line, "id": id, "completion": index, "outcome": outcome})

    def write(self, output_dir: Path, groups: Sequence[PromptGroup]) -> dict[str, Any]:
        """Writes ledger.jsonl, in the input's order, and ledger.json, its counts; gives the latter."""
        entries = sorted([*self._rows, *self._completions], key=lambda entry: (entry["line"], entry.get("completion", -1)))
        write_whole(output_dir / "ledger.jsonl", entries)
        summary = {
            "source": self._source,
            "num_rows": len(self._rows),
            "rows": dict(sorted(Counter(entry["outcome"] for entry in self._rows).items())),
            "completions_left_out": dict(sorted(Counter(entry["outcome"] for entry in self._completions).items())),
            "dropped_share": self.dropped_share,
            **_describe(groups),
        }
        write_whole(output_dir / "ledger.json", [summary])
        return summary

    @property
    def dropped_share(self) -> float:
        lost = sum(entry["outcome"] not in _NOT_LOST for entry in self._rows)
        return lost / len(self._rows) if self._rows else 0.0

    def check(self, max_dropped_share: float, ledger_file: Path) -> None:
        """Refuses data of which too much was lost.

        Raises:
            ValueError: naming the reasons, most frequent first, and the first row that was lost.
        """
        if not self._rows:
            raise ValueError(f"the data must hold at least one row, got none from {self._source}; correct data.path")
        lost = [entry for entry in self._rows if entry["outcome"] not in _NOT_LOST]
        kept = any(entry["outcome"] in KEPT for entry in self._rows)
        if kept and self.dropped_share <= max_dropped_share:
            return
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(entry["outcome"] for entry in lost).most_common())
        first = f"line {lost[0]['line']}: {lost[0]['outcome']}" + (f", {lost[0]['detail']}" if lost[0].get("detail") else "")
        rule = f"be at most {max_dropped_share:.0%}" if kept else "leave at least one row"
        raise ValueError(
            f"the share of dropped rows must {rule}, got {self.dropped_share:.1%} of {len(self._rows)} ({reasons}; first {first}); "
            f"correct the data ({ledger_file} lists every row)" + (" or raise prepare.max_dropped_share" if kept else "")
        )


def _describe(groups: Sequence[PromptGroup]) -> dict[str, Any]:
    completions = [completion for group in groups for completion in group.completions]
    prompt_tokens = sum(len(group.prompt_ids) for group in groups)
    completion_tokens = sum(len(completion.token_ids) for completion in completions)
    total = prompt_tokens + completion_tokens
    return {
        "num_groups": len(groups),
        "num_pairs": sum(len(group.pairs) for group in groups),
        "num_preferred": sum(completion.label > 0 for completion in completions),
        "num_dispreferred": sum(completion.label < 0 for completion in completions),
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "prompt_share": prompt_tokens / total if total else 0.0,
        "prompt_length": _quantiles([len(group.prompt_ids) for group in groups]),
        "completion_length": _quantiles([len(completion.token_ids) for completion in completions]),
        "group_length": _quantiles([group.num_tokens for group in groups]),
    }


def _quantiles(lengths: list[int]) -> dict[str, float]:
    """Nearest-rank quantiles in tokens; empty for no data."""
    if not lengths:
        return {}
    ordered = sorted(lengths)
    ranks = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in ranks.items()} | {
        "mean": sum(ordered) / len(ordered)
    }
