"""Best-of-n fine-tuning: `−A` on the m best of a prompt's first n samples by score; of equal scores the earlier sample counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import BaseObjective, Losses, RowLogps, check_option

if TYPE_CHECKING:
    from bnf.data.groups import PromptGroup


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_scores: ClassVar[bool] = True

    n: int = 4
    m: int = 1

    def __post_init__(self) -> None:
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (self.n, self.m))
        check_option(
            whole and 1 <= self.m <= self.n, "m", f"be a whole number from 1 to n ({self.n!r})", self.m, "1 is the default"
        )

    def losses(self, row: RowLogps) -> Losses:
        selected = row.scores.new_zeros(len(row.scores))
        for number in row.group_of_completion.unique():
            own = (row.group_of_completion == number).nonzero()[: self.n, 0]
            best = row.scores[own].argsort(descending=True, stable=True)[: self.m]
            selected[own[best]] = 1
        return Losses(completions=-selected * row.average_logps)

    def num_completions(self, group: PromptGroup) -> int:
        return min(self.m, len(group.completions))
