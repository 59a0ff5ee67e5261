"""What is logged of a training step, summed over its rows: rewards, log-probabilities, BNF's weights, the published loss's
value.
"""

from collections import defaultdict

import torch
from torch import Tensor

from bnf.logps import TokenLogps
from bnf.objectives._base import BaseObjective, RowLogps
from bnf.objectives.bnf import dtd_cross_entropy, feedback_weights

_NAMES = {1: "chosen", -1: "rejected"}


class StepMetrics:
    """Means over everything that was added since the last `pop`; "chosen" and "rejected" stand for preferred and
    dispreferred.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._rewards: dict[int, list[float]] = {1: [], -1: []}
        self._has_pairs = False
        self.num_tokens = 0

    def add(self, objective: BaseObjective, row: RowLogps, policy: TokenLogps, num_tokens: int) -> None:
        """Adds a row; `policy` with entropies where the step is logged."""
        self.num_tokens += num_tokens
        with torch.no_grad():
            rewards = objective.rewards(row)
            for sign, name in _NAMES.items():
                own = row.labels == sign
                self._rewards[sign].extend(rewards[own].tolist())
                self._mean(f"rewards/{name}", rewards[own])
                self._mean(f"logps/{name}", row.average_logps[own])
                self._mean(f"logps_sum/{name}", row.logps[own])
            if len(row.pairs):
                self._has_pairs = True
                margins = row.margins(rewards)
                self._mean("rewards/margins", margins)
                self._mean("rewards/accuracies", (margins > 0).float())
            if row.reference_per_token_log_odds is not None:
                self._add_weights(row, feedback_weights(row.per_token_log_odds, row.reference_per_token_log_odds))
            if policy.rest_entropies is not None:
                self._mean("entropy", policy.entropies)
                if row.reference_per_token_logps is not None:
                    values = dtd_cross_entropy(
                        row.per_token_logps, row.per_token_log_odds, row.reference_per_token_logps, policy.rest_entropies
                    )
                    self._mean("dtd_loss", row.labels * row.sum_by_completion(values) / row.lengths)

    def mean_weight(self) -> float | None:
        """Mean of BNF's weight w over all tokens, or None where no reference was read."""
        count = sum(self._counts[f"weights/{name}"] for name in _NAMES.values())
        return sum(self._sums[f"weights/{name}"] for name in _NAMES.values()) / count if count else None

    def pop(self) -> dict[str, float]:
        """The means, after which counting starts anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name]}
        chosen, rejected = self._rewards[1], self._rewards[-1]
        if not self._has_pairs and chosen and rejected:
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
            means["rewards/accuracies"] = area_under_curve(chosen, rejected)
        self.__init__()  # type: ignore[misc]
        return dict(sorted(means.items()))

    def _add_weights(self, row: RowLogps, weights: Tensor) -> None:
        signs = row.labels[row.completion_of_token]
        for sign, name in _NAMES.items():
            own = weights[signs == sign]
            self._mean(f"weights/{name}", own)
            self._mean(f"weights_below_1/{name}", (own < 1).float())

    def _mean(self, name: str, values: Tensor) -> None:
        self._sums[name] += float(values.double().sum())
        self._counts[name] += values.numel()


def area_under_curve(chosen: list[float], rejected: list[float]) -> float:
    """The share of (chosen, rejected) combinations in which the chosen one has the higher reward, ties counting half."""
    difference = torch.tensor(chosen)[:, None] - torch.tensor(rejected)[None, :]
    return float(((difference > 0).float() + (difference == 0).float() / 2).mean())
