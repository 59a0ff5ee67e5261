"""CPO (arXiv 2401.08417, eq. 3): `−log σ(β(S_w − S_l)) + λ·NLL_w`, DPO with a uniform reference, and likelihood of the
chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import BaseObjective, Losses, RowLogps, check_non_negative, check_positive, negative_log_sigmoid

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_pairs: ClassVar[bool] = True

    beta: float = 0.1
    # λ
    nll_weight: float = 1.0

    def __post_init__(self) -> None:
        check_positive("beta", self.beta, "0.1 is the paper's")
        check_non_negative("nll_weight", self.nll_weight, "1 is the paper's")

    def losses(self, row: RowLogps) -> Losses:
        preference = negative_log_sigmoid(self.beta * row.margins(row.logps))
        return Losses(pairs=preference - self.nll_weight * row.chosen(row.average_logps))

    def rewards(self, row: RowLogps) -> Tensor:
        return self.beta * row.logps
