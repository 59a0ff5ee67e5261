"""ORPO (arXiv 2403.07691, eq. 6): `NLL_w − λ·log σ(log odds A_w − log odds A_l)`, odds of the mean log-probability; no
reference.

The likelihood term is the mean over the chosen completion's tokens; with `nll_scope: all` over the prompt's too, as in TRL.
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
    log_odds_of,
    negative_log_sigmoid,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_pairs: ClassVar[bool] = True

    # λ
    odds_weight: float = 0.1
    nll_scope: str = "completion"

    def __post_init__(self) -> None:
        check_non_negative("odds_weight", self.odds_weight, "the field tunes over 0.1, 0.5, 1 and 2")
        known = self.nll_scope in ("completion", "all")
        check_option(known, "nll_scope", "be completion or all", self.nll_scope, "all takes the prompt's tokens in")

    @property
    def needs_prompts(self) -> bool:
        return self.nll_scope == "all"

    def losses(self, row: RowLogps) -> Losses:
        likelihoods = row.average_logps
        if self.nll_scope == "all":
            assert row.prompt_logps is not None and row.prompt_lengths is not None
            of_prompts, lengths = row.prompt_logps[row.group_of_completion], row.prompt_lengths[row.group_of_completion]
            likelihoods = (of_prompts + row.logps) / (lengths + row.lengths)
        odds_ratio = row.margins(log_odds_of(row.average_logps))
        return Losses(pairs=self.odds_weight * negative_log_sigmoid(odds_ratio) - row.chosen(likelihoods))

    def rewards(self, row: RowLogps) -> Tensor:
        return self.odds_weight * row.average_logps
