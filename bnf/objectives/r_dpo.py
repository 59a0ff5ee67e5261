"""R-DPO (arXiv 2403.19159): `−log σ(βΔ + α(|y_w| − |y_l|))`, DPO that discounts what a longer completion gains by its length."""

from __future__ import annotations

from dataclasses import dataclass

from bnf.objectives._base import Losses, RowLogps, check_non_negative, negative_log_sigmoid
from bnf.objectives.dpo import Objective as DPO


@dataclass(frozen=True)
class Objective(DPO):
    alpha: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_non_negative("alpha", self.alpha, "the field tunes over 0.05, 0.1, 0.5 and 1")

    def losses(self, row: RowLogps) -> Losses:
        return Losses(pairs=negative_log_sigmoid(row.margins(self.beta * row.logratios + self.alpha * row.lengths)))
