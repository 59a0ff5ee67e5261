"""Reward-weighted regression on the policy's own samples: `−min(exp((r − b)/τ), w_max)·A` (arXiv 2404.14367, section 3).

The baseline b is 0, or the mean reward of the prompt's samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import BaseObjective, Losses, RowLogps, check_option, check_positive

if TYPE_CHECKING:
    from bnf.data.groups import Completion

# `exp` of less is 0 in float32.
_LEAST_EXPONENT = -103.0


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_scores: ClassVar[bool] = True

    # τ
    temperature: float = 1.0
    baseline: str = "zero"
    # w_max
    max_weight: float = 20.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature, "the field tunes over 1 and 10")
        check_positive("max_weight", self.max_weight, "20 is the default")
        known = self.baseline in ("zero", "prompt_mean")
        check_option(known, "baseline", "be zero or prompt_mean", self.baseline, "zero is the default")

    def losses(self, row: RowLogps) -> Losses:
        rewards = row.scores
        if self.baseline == "prompt_mean":
            groups = row.group_of_completion
            sums = rewards.new_zeros(len(rewards)).index_add(0, groups, rewards)
            counts = rewards.new_zeros(len(rewards)).index_add(0, groups, rewards.new_ones(len(rewards)))
            rewards = rewards - (sums / counts)[groups]
        weights = (rewards / self.temperature).exp().clamp(max=self.max_weight)
        return Losses(completions=-weights * row.average_logps)

    def learns_from(self, completion: Completion) -> bool:
        # A prompt's best completion is not below the mean.
        is_relative = self.baseline == "prompt_mean" or completion.score is None
        return is_relative or completion.score / self.temperature >= _LEAST_EXPONENT  # type: ignore[operator]
