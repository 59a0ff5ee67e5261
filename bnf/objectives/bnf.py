"""BNF: bidirectional negative feedback (arXiv 2410.04834).

The loss is the cross-entropy to a dynamic target distribution (eq. 7 and 8), `−(s/|y|) Σ_t Σ_v f(v)·log π(v)` with `f(y_t) =
min(1, p/r)` and the rest of f proportional to the policy's. Its gradient equals that of `−(s/|y|) Σ_t w_t·log p_t` with the weights
`w_t = min(1, odds(p_t)/odds(r_t))` held constant. That form needs the completion tokens' probabilities alone, so it is what is
trained on; the cross-entropy itself is a metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import BaseObjective, Losses, RowLogps

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective(BaseObjective):
    needs_reference: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("label_weighting", "length_normalization")

    def losses(self, row: RowLogps) -> Losses:
        assert row.reference_per_token_log_odds is not None
        weights = feedback_weights(row.per_token_log_odds, row.reference_per_token_log_odds)
        sums = row.sum_by_completion(weights * row.per_token_logps)
        return Losses(completions=-row.labels * sums / row.normalizers)


def feedback_weights(log_odds: Tensor, reference_log_odds: Tensor) -> Tensor:
    """`w = min(1, odds(p)/odds(r))`, exactly 1 where the two are equal; no gradient flows. Same shapes."""
    return (log_odds - reference_log_odds).detach().clamp(max=0).exp()


def dtd_cross_entropy(logps: Tensor, log_odds: Tensor, reference_logps: Tensor, rest_entropies: Tensor) -> Tensor:
    """The published loss's value per position, `−f·log p + (1−f)·(H_rest − log(1−p))`, without sign or mean: a metric. Same shapes.

    `rest_entropies` is the entropy of the policy's other tokens, renormalised. With it the value keeps its precision for p → 1, where
    the usual form, `(1−f)/(1−p)·(H + p·log p)`, divides a difference of nearly equal numbers by nearly zero.
    """
    target = (logps - reference_logps).clamp(max=0).exp()
    return -target * logps + (1 - target) * (rest_entropies - (logps - log_odds))
