"""GRPO (arXiv 2402.03300, eq. 3): PPO's clipped term at each token, with the advantage normalised in the prompt's group.

How the terms of tokens are added up (`loss_aggregation`): `sequence_mean` over a completion's tokens, then over completions (GRPO);
`token_mean` over all tokens of the global batch (DAPO, arXiv 2503.14476, which clips higher: `epsilon_high`); `constant` divides a
completion's sum by `max_completion_length` (Dr. GRPO, arXiv 2503.20783, with `scale_rewards: none`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import Losses, RowLogps, check_option
from bnf.objectives._policy_gradient import (
    GroupNormalized,
    check_choice,
    check_clip,
    clip_metrics,
    clipped_losses,
    token_log_ratios,
)

if TYPE_CHECKING:
    from torch import Tensor

    from bnf.data.groups import PromptGroup


@dataclass(frozen=True)
class Objective(GroupNormalized):
    needs_old: ClassVar[bool] = True

    loss_aggregation: str = "sequence_mean"
    max_completion_length: int | None = None
    epsilon: float = 0.2
    epsilon_high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self.epsilon, self.epsilon_high)
        check_choice("loss_aggregation", self.loss_aggregation, ("sequence_mean", "token_mean", "constant"))
        longest, constant = self.max_completion_length, self.loss_aggregation == "constant"
        whole = isinstance(longest, int) and not isinstance(longest, bool) and longest >= 1
        rule = "be a whole number of at least 1 with loss_aggregation constant, and left out with others"
        check_option(
            whole if constant else longest is None, "max_completion_length", rule, longest, "sample.max_new_tokens is usual"
        )

    def losses(self, row: RowLogps) -> Losses:
        terms = clipped_losses(*self._ratios_and_advantages(row), self.epsilon, self.epsilon_high)
        sums = self.regularized(row.sum_by_completion(terms), row)
        if self.loss_aggregation == "sequence_mean":
            sums = sums / row.lengths
        elif self.max_completion_length is not None:
            sums = sums / self.max_completion_length
        return Losses(completions=sums)

    def num_completions(self, group: PromptGroup) -> int:
        if self.loss_aggregation == "token_mean":
            return sum(len(completion.token_ids) for completion in group.completions)
        return len(group.completions)

    def metrics(self, row: RowLogps) -> Mapping[str, Tensor]:
        return clip_metrics(*self._ratios_and_advantages(row), self.epsilon, self.epsilon_high)

    def _ratios_and_advantages(self, row: RowLogps) -> tuple[Tensor, Tensor]:
        return token_log_ratios(row), self.advantages(row)[row.completion_of_token]
