"""GSPO (arXiv 2507.18071, eq. 5 and 7): GRPO with one ratio for each completion, `ρ = exp((S − S_old)/|y|)`, clipped as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import Losses, RowLogps
from bnf.objectives._policy_gradient import GroupNormalized, check_clip, clip_metrics, clipped_losses, token_log_ratios

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective(GroupNormalized):
    needs_old: ClassVar[bool] = True

    # The paper's: these ratios stay nearer to 1 than those of tokens.
    epsilon: float = 3e-4
    epsilon_high: float | None = 4e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self.epsilon, self.epsilon_high, "3e-4 is the paper's")

    def losses(self, row: RowLogps) -> Losses:
        losses = clipped_losses(self._log_ratios(row), self.advantages(row), self.epsilon, self.epsilon_high)
        return Losses(completions=self.regularized(losses, row, mean=True))

    def metrics(self, row: RowLogps) -> Mapping[str, Tensor]:
        return clip_metrics(self._log_ratios(row), self.advantages(row), self.epsilon, self.epsilon_high)

    def _log_ratios(self, row: RowLogps) -> Tensor:
        """(C,)"""
        return row.sum_by_completion(token_log_ratios(row)) / row.lengths
