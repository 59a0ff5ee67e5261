"""PPO (arXiv 1707.06347, eq. 7): `−min(ρA, clip(ρ, 1 − ε, 1 + ε)·A)`, ρ the ratio of the policy to the one that sampled the completions.

ρ is that of each token, whose terms are summed over the completion, or with `ratio: sequence` that of the whole completion. Where ρ is
1, both have REINFORCE's gradient. The advantage is REINFORCE's: there is no value head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import Losses, RowLogps
from bnf.objectives._policy_gradient import (
    WithBaseline,
    check_choice,
    check_clip,
    clip_metrics,
    clipped_losses,
    token_log_ratios,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective(WithBaseline):
    needs_old: ClassVar[bool] = True

    ratio: str = "token"
    # ε, and ε at the high end
    epsilon: float = 0.2
    epsilon_high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("ratio", self.ratio, ("token", "sequence"))
        check_clip(self.epsilon, self.epsilon_high)

    def losses(self, row: RowLogps) -> Losses:
        terms = clipped_losses(*self._ratios_and_advantages(row), self.epsilon, self.epsilon_high)
        return Losses(completions=self.regularized(row.sum_by_completion(terms) if self.ratio == "token" else terms, row))

    def metrics(self, row: RowLogps) -> Mapping[str, Tensor]:
        return clip_metrics(*self._ratios_and_advantages(row), self.epsilon, self.epsilon_high)

    def _ratios_and_advantages(self, row: RowLogps) -> tuple[Tensor, Tensor]:
        """Log-ratios and advantages, of tokens or of completions."""
        ratios, advantages = token_log_ratios(row), self.advantages(row)
        if self.ratio == "token":
            return ratios, advantages[row.completion_of_token]
        return row.sum_by_completion(ratios), advantages
