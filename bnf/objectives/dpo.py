"""DPO (arXiv 2305.18290, eq. 7): `−log σ(βΔ)`, Δ the difference of the pair's log-ratios to the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import BaseObjective, Losses, RowLogps, check_positive, negative_log_sigmoid

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_reference: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = True

    beta: float = 0.1

    def __post_init__(self) -> None:
        check_positive("beta", self.beta, "the field tunes over 0.01, 0.05 and 0.1")

    def losses(self, row: RowLogps) -> Losses:
        return Losses(pairs=negative_log_sigmoid(self.beta * row.margins(row.logratios)))

    def rewards(self, row: RowLogps) -> Tensor:
        return self.beta * row.logratios
