"""DPO-positive (arXiv 2402.13228, eq. 3): `−log σ(β(Δ − λ·max(0, S_w^ref − S_w)))`, for pairs so alike that DPO lowers both."""

from __future__ import annotations

from dataclasses import dataclass

from bnf.objectives._base import Losses, RowLogps, check_non_negative, negative_log_sigmoid
from bnf.objectives.dpo import Objective as DPO


@dataclass(frozen=True)
class Objective(DPO):
    # λ
    penalty_weight: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_non_negative("penalty_weight", self.penalty_weight, "the paper's are 5 to 50")

    def losses(self, row: RowLogps) -> Losses:
        penalty = (-row.chosen(row.logratios)).clamp(min=0)
        return Losses(pairs=negative_log_sigmoid(self.beta * (row.margins(row.logratios) - self.penalty_weight * penalty)))
