"""SLiC-HF (arXiv 2305.10425, eq. 1): `max(0, δ − S_w + S_l) − λ·S_w`, a hinge on summed log-probabilities; no reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bnf.objectives._base import BaseObjective, Losses, RowLogps, check_non_negative


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_pairs: ClassVar[bool] = True

    delta: float = 1.0
    # λ
    sft_weight: float = 0.1

    def __post_init__(self) -> None:
        check_non_negative("delta", self.delta, "the field tunes over 0.1, 0.5, 1 and 2")
        check_non_negative("sft_weight", self.sft_weight, "0.1 is the default")

    def losses(self, row: RowLogps) -> Losses:
        hinge = (self.delta - row.margins(row.logps)).clamp(min=0)
        return Losses(pairs=hinge - self.sft_weight * row.chosen(row.logps))
