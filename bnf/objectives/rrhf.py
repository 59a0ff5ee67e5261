"""RRHF (arXiv 2304.05302, eq. 2–4): `Σ max(0, A_j − A_i)` over all completions of a prompt with reward i > j, less `λ·S` of
the best one.

Rewards are the scores, or the labels where a group has a completion without a score. Each prompt whose rewards differ gives one term;
a prompt whose completions are equally good gives none. The likelihood term is summed over tokens, unlike in the paper's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bnf.objectives._base import BaseObjective, Losses, RowLogps, check_non_negative, stack

if TYPE_CHECKING:
    from bnf.data.groups import PromptGroup


@dataclass(frozen=True)
class Objective(BaseObjective):
    # λ
    sft_weight: float = 1.0

    def __post_init__(self) -> None:
        check_non_negative("sft_weight", self.sft_weight, "the field tunes over 0.1, 0.5, 1 and 10")

    def losses(self, row: RowLogps) -> Losses:
        averages, sums = row.average_logps, row.logps
        terms = []
        for number in row.group_of_completion.unique():
            own = (row.group_of_completion == number).nonzero()[:, 0]
            rewards = row.scores[own] if not row.scores[own].isnan().any() else row.labels[own]
            better = rewards[:, None] > rewards[None, :]
            if not better.any():
                continue
            hinge = (averages[own][None, :] - averages[own][:, None]).clamp(min=0)
            terms.append((hinge * better).sum() - self.sft_weight * sums[own[rewards.argmax()]])
        return Losses(pairs=stack(terms, like=sums))

    def num_completions(self, group: PromptGroup) -> int:
        return 0

    def num_pairs(self, group: PromptGroup) -> int:
        scores = [completion.score for completion in group.completions]
        rewards = [completion.label for completion in group.completions] if None in scores else scores
        # In float32, as they are compared above.
        return int(len(np.unique(np.asarray(rewards, dtype=np.float32))) > 1)
