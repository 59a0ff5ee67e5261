"""ORPO (arXiv 2403.07691, eq. 6): `NLL_w − λ·log σ(log odds A_w − log odds A_l)`, odds of the mean log-probability; no
reference.

The likelihood term is over the completion's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import BaseObjective, Losses, RowLogps, check_non_negative, log_odds_of, negative_log_sigmoid

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_pairs: ClassVar[bool] = True

    # λ
    odds_weight: float = 0.1

    def __post_init__(self) -> None:
        check_non_negative("odds_weight", self.odds_weight, "the field tunes over 0.1, 0.5, 1 and 2")

    def losses(self, row: RowLogps) -> Losses:
        odds_ratio = row.margins(log_odds_of(row.average_logps))
        return Losses(pairs=-row.chosen(row.average_logps) + self.odds_weight * negative_log_sigmoid(odds_ratio))

    def rewards(self, row: RowLogps) -> Tensor:
        return self.odds_weight * row.average_logps
