"""REINFORCE on the policy's own samples: `−A·S` (Williams 1992; in arXiv 2404.14367, section 3), A the advantage."""

from __future__ import annotations

from dataclasses import dataclass

from bnf.objectives._base import Losses, RowLogps
from bnf.objectives._policy_gradient import WithBaseline


@dataclass(frozen=True)
class Objective(WithBaseline):
    @property
    def needs_old(self) -> bool:  # type: ignore[override]
        return self._shapes_scores

    def losses(self, row: RowLogps) -> Losses:
        return Losses(completions=self.regularized(-self.advantages(row) * row.logps, row))
