"""The ledger: what became of every input row, and why. No row is lost without a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data.preparing.counts import BEYOND_LIMIT, KEPT, NOT_LOST, USED, GroupStatistics, LedgerCounts
from data.preparing.render import named_place
from data.preparing.staging import Staging
from evaluation.records import Record, write_whole


class Ledger:
    """The ledger of the rows in staging, which all have their outcomes.

    Args:
        names: the sources' names.
        unread: source → column that was not read → rows that have text there.
    """

    def __init__(self, staging: Staging, names: Sequence[str], unread: Mapping[int, Mapping[str, int]]) -> None:
        self._staging, self._names, self._unread = staging, names, unread
        found = staging.run("select source, outcome, count(*) from rows group by source, outcome")
        self._by_source: dict[int, Counter[str]] = {}
        for source, outcome, count in found:
            self._by_source.setdefault(source, Counter())[outcome] = count
        self._rows = sum(self._by_source.values(), Counter())

    def write(self, output_dir: Path, groups: GroupStatistics, dev_groups: GroupStatistics) -> None:
        """Writes ledger.jsonl, a line per row in the input's order, and ledger.json, the counts."""
        write_whole(output_dir / "ledger.jsonl", self._entries())
        left_out = self._staging.run(
            "select candidates.outcome, count(*) from candidates join rows on rows.no = row "
            "where candidates.outcome != '' and listed group by 1 order by 1"
        )
        marks = ("flipped", "contradicted", "truncated", "changed", "still_there")
        found = self._staging.run(
            "select coalesce(sum(json_extract(more, '$.flipped')), 0), coalesce(sum(json_extract(more, '$.contradicted')), 0), "
            "coalesce(sum(json_extract(more, '$.truncated') is not null), 0), "
            "coalesce(sum(json_extract(more, '$.changed') is not null), 0), "
            "coalesce(sum(json_extract(more, '$.still_there')), 0) from rows"
        ).fetchone()
        counts = LedgerCounts(
            ", ".join(dict.fromkeys(self._names)),
            self._rows.total(),
            dict(sorted(self._rows.items())),
            dict(left_out),
            self.dropped_share,
            **{f"num_{mark}": count for mark, count in zip(marks, found, strict=True)},
            groups=groups,
            dev={"num_groups": dev_groups.num_groups, "num_pairs": dev_groups.num_pairs},
            columns_not_read={self._names[source]: dict(columns) for source, columns in sorted(self._unread.items())},
            sources=[
                {"source": name, "rows": dict(sorted(self._by_source.get(number, Counter()).items()))}
                for number, name in enumerate(self._names)
                if len(self._names) > 1
            ],
        )
        write_whole(output_dir / "ledger.json", [counts.to_json()])

    @property
    def dropped_share(self) -> float:
        return self._lost.total() / self._num_taken if self._num_taken else 0.0

    @property
    def _num_taken(self) -> int:
        """How many rows there are before `data.limit`."""
        return self._rows.total() - self._rows[BEYOND_LIMIT]

    @property
    def _lost(self) -> Counter[str]:
        return Counter({outcome: count for outcome, count in self._rows.items() if outcome not in NOT_LOST})

    def check_sources(self, ledger_file: Path) -> None:
        """Refuses a mixture of which one source gives nothing, however few rows it has.

        Raises:
            ValueError: naming the source and its first row.
        """
        if not any(self._rows[outcome] for outcome in USED):
            return  # `check` says why nothing is left at all
        for number, name in enumerate(self._names):
            rows = self._by_source.get(number, Counter())
            if any(rows[outcome] for outcome in USED):
                continue
            first = self._staging.run(
                "select file, line, outcome, detail from rows where source = ? order by no limit 1", number
            ).fetchone()
            got = "none"
            if first:
                file, line, outcome, detail = first
                got = f"{rows.total()} that are all lost (first {_lost_row(named_place(line, file), outcome, detail)})"
            raise ValueError(
                f"data.{number} must give rows, got {got} in {name}; correct the data or data.columns, or take the source out "
                f"({ledger_file} lists every row)"
            )

    def check(self, max_dropped_share: float, ledger_file: Path) -> None:
        """Refuses data of which too large a share was lost.

        Raises:
            ValueError: naming the reasons, most frequent first, and the first row that was lost.
        """
        num_rows = self._num_taken
        if not self._rows:
            raise ValueError(f"the data must hold at least one row, got none from {', '.join(self._names)}; correct data.path")
        kept = any(self._rows[outcome] for outcome in KEPT)
        if kept and self.dropped_share <= max_dropped_share:
            return
        counts = self._lost or self._rows
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        marks = ", ".join("?" * len(counts))
        source, file, line, outcome, detail = self._staging.run(
            f"select source, file, line, outcome, detail from rows where outcome in ({marks}) order by no limit 1", *counts
        ).fetchone()
        # The number tells sources of one name apart.
        place = named_place(line, file, f"{source} ({self._names[source]})" if len(self._names) > 1 else "")
        first = _lost_row(place, outcome, detail)
        rule = f"be at most {max_dropped_share:.0%}" if kept else "leave at least one row"
        raise ValueError(
            f"the share of dropped rows must {rule}, got {self.dropped_share:.1%} of {num_rows} ({reasons}; first {first}); "
            f"correct the data ({ledger_file} lists every row)" + (" or raise prepare.max_dropped_share" if kept else "")
        )

    def _entries(self) -> Iterator[Record]:
        """One entry per input row, and after it one per completion that was left out of a list."""
        several = len(self._names) > 1
        left_out = self._staging.run(
            "select row, position, candidates.outcome from candidates join rows on rows.no = row "
            "where candidates.outcome != '' and listed order by row, position"
        )
        waiting = left_out.fetchone()
        for no, source, file, line, id, outcome, detail, more in self._staging.run(
            "select no, source, file, line, id, outcome, detail, more from rows order by no"
        ):
            place = ({"source": self._names[source]} if several else {}) | ({"file": file} if file else {}) | {"line": line}
            read = outcome not in ("bad_schema", "not_utf8", "no_assistant_turn", "prompts_differ")
            entry = {**place, "id": id if read else None, "outcome": outcome, **json.loads(more)}
            yield entry | ({"detail": detail} if detail else {})
            while waiting is not None and waiting[0] == no:
                yield {**place, "id": id, "completion": waiting[1], "outcome": waiting[2]}
                waiting = left_out.fetchone()


def _lost_row(place: str, outcome: str, detail: str) -> str:
    return f"{place}: {outcome}" + (f", {detail}" if detail else "")
