"""DPO with likelihood (arXiv 2404.19733, eq. 1): `−log σ(βΔ) + λ·NLL_w`, which keeps the chosen completion likely."""

from __future__ import annotations

from dataclasses import dataclass

from bnf.objectives._base import Losses, RowLogps, check_non_negative
from bnf.objectives.dpo import Objective as DPO


@dataclass(frozen=True)
class Objective(DPO):
    # λ
    nll_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_non_negative("nll_weight", self.nll_weight, "1 is the paper's")

    def losses(self, row: RowLogps) -> Losses:
        preference = super().losses(row).pairs
        assert preference is not None
        return Losses(pairs=preference - self.nll_weight * row.chosen(row.average_logps))
