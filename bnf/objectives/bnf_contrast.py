"""BNF with a contrastive term, `BNF + λ·DPO`: open question 2 of arXiv 2410.04834."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bnf.objectives._base import Losses, RowLogps, check_non_negative, check_positive
from bnf.objectives.bnf import Objective as BNF
from bnf.objectives.dpo import Objective as DPO


@dataclass(frozen=True)
class Objective(BNF):
    needs_pairs: ClassVar[bool] = True

    # λ
    contrast_weight: float = 0.1
    beta: float = 0.1

    def __post_init__(self) -> None:
        check_non_negative("contrast_weight", self.contrast_weight, "0, 0.1, 0.3 and 1 are of interest")
        check_positive("beta", self.beta, "it is DPO's")

    def losses(self, row: RowLogps) -> Losses:
        contrast = DPO(beta=self.beta).losses(row).pairs
        assert contrast is not None
        return Losses(completions=super().losses(row).completions, pairs=self.contrast_weight * contrast)
