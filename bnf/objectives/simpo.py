"""SimPO (arXiv 2405.14734, eq. 6): `−log σ(β(A_w − A_l) − γ)` on mean log-probabilities, without a reference.

The margin is given as `gamma` or as `gamma_beta_ratio` (γ/β), the two names that recipes use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import (
    BaseObjective,
    Losses,
    RowLogps,
    check_non_negative,
    check_option,
    check_positive,
    negative_log_sigmoid,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_pairs: ClassVar[bool] = True

    beta: float = 2.0
    # One of the two; 0.5·β where neither is given.
    gamma: float | None = None
    gamma_beta_ratio: float | None = None

    def __post_init__(self) -> None:
        check_positive("beta", self.beta, "the field tunes over 2, 2.5 and 10")
        both = self.gamma is not None and self.gamma_beta_ratio is not None
        check_option(not both, "gamma", "be left out beside gamma_beta_ratio", self.gamma, "gamma is beta · gamma_beta_ratio")
        for name in ("gamma", "gamma_beta_ratio"):
            if getattr(self, name) is not None:
                check_non_negative(name, getattr(self, name), "gamma_beta_ratio is 0, 0.3, 0.5 or 1 in the field")

    @property
    def margin(self) -> float:
        """γ"""
        if self.gamma is not None:
            return self.gamma
        return self.beta * (0.5 if self.gamma_beta_ratio is None else self.gamma_beta_ratio)

    def losses(self, row: RowLogps) -> Losses:
        return Losses(pairs=negative_log_sigmoid(self.beta * row.margins(row.average_logps) - self.margin))

    def rewards(self, row: RowLogps) -> Tensor:
        return self.beta * row.average_logps
