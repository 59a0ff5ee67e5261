"""KTO (arXiv 2402.01306, eq. 8): `λ_w·(1 − σ(β(S_w − S_w^ref − z)))` of a preferred completion, `λ_l·(1 − σ(β(z − S_l +
S_l^ref)))` of a dispreferred one; no pairs.

z, the reference point, is the mean log-ratio of the global batch's KL pairs (every prompt with another prompt's completions), but at
least 0. It is one number for the whole batch, and no gradient flows through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import BaseObjective, Losses, RowLogps, check_non_negative, check_option, check_positive

if TYPE_CHECKING:
    from torch import Tensor

    from bnf.data.groups import Completion


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_reference: ClassVar[bool] = True
    needs_kl_pairs: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("label_weighting",)

    beta: float = 0.1
    # λ_w
    desirable_weight: float = 1.0
    # λ_l
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        check_positive("beta", self.beta, "the field tunes over 0.01, 0.05 and 0.1")
        check_non_negative("desirable_weight", self.desirable_weight, "1 is the default")
        check_non_negative("undesirable_weight", self.undesirable_weight, "1 is the default")
        some = self.desirable_weight > 0 or self.undesirable_weight > 0
        check_option(
            some, "desirable_weight", "be above 0 where undesirable_weight is 0", self.desirable_weight, "leave one at 1"
        )

    def losses(self, row: RowLogps) -> Losses:
        assert row.kl_pair_logratio is not None
        gains = row.labels * (row.logratios - row.kl_pair_logratio.clamp(min=0))
        preferred = row.labels > 0
        weights = self.desirable_weight * preferred + self.undesirable_weight * ~preferred
        # 1 − σ(x) = σ(−x), which keeps its precision for large x.
        return Losses(completions=weights * (-self.beta * gains).sigmoid())

    def learns_from(self, completion: Completion) -> bool:
        return (self.desirable_weight if completion.label > 0 else self.undesirable_weight) > 0

    def rewards(self, row: RowLogps) -> Tensor:
        return self.beta * row.logratios
