"""TOPR (arXiv 2503.14286): supervised on positive samples, while a negative one weighs `clip(π/μ, 0, 1)`: `−A·S` and `−A·w·S`.

The weight is that of the whole completion, μ the policy that the training started from, and no gradient flows through it. So a negative
sample counts less the further it has been pushed down, as in BNF; there the weight is each token's, and of positive ones too. The
advantage A is the label, +1 or −1 (`advantage: label`), or the score less the mean of the prompt's samples or of its other samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import Losses, RowLogps
from bnf.objectives._policy_gradient import SampleObjective, advantages, check_choice, token_log_ratios

if TYPE_CHECKING:
    from torch import Tensor

    from bnf.data.groups import PromptGroup


@dataclass(frozen=True)
class Objective(SampleObjective):
    needs_old: ClassVar[bool] = True

    advantage: str = "label"

    def __post_init__(self) -> None:
        check_choice("advantage", self.advantage, ("label", "prompt_mean", "leave_one_out"))

    @property
    def needs_scores(self) -> bool:  # type: ignore[override]
        return self.advantage != "label"

    def learns_from_group(self, group: PromptGroup) -> bool:
        return self.advantage == "label" or super().learns_from_group(group)

    def losses(self, row: RowLogps) -> Losses:
        found = row.labels if self.advantage == "label" else advantages(row.scores, row, self.advantage)
        weights = self._ratios(row).where(found < 0, found.new_ones(()))
        return Losses(completions=-found * weights * row.logps)

    def metrics(self, row: RowLogps) -> Mapping[str, Tensor]:
        return {"ratio_up_to_1": self._ratios(row)}

    def _ratios(self, row: RowLogps) -> Tensor:
        """`min(π/μ, 1)`. (C,)"""
        return row.sum_by_completion(token_log_ratios(row)).detach().clamp(max=0).exp()
