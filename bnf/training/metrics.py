"""What is logged of a training step, summed over its rows: rewards, log-probabilities, BNF's weights, the published loss's
value.
"""

import torch
from torch import Tensor

from bnf.model.logps import TokenLogps
from bnf.objectives._base import BaseObjective, RowLogps
from bnf.objectives.bnf import dtd_cross_entropy, feedback_weights
from bnf.training.parallel import gather, num_processes

_NAMES = {1: "chosen", -1: "rejected"}


class StepMetrics:
    """Means over everything that was added since the last `pop`; "chosen" and "rejected" stand for preferred and
    dispreferred.

    Sums stay on the device, so that a row costs no synchronisation.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        # Of each row: its completions' rewards and labels.
        self._rewards: list[tuple[Tensor, Tensor]] = []
        self._has_pairs = False
        self.num_tokens = 0

    def add(self, objective: BaseObjective, row: RowLogps, policy: TokenLogps, num_tokens: int) -> None:
        """Adds a row; `policy` with entropies where the step is logged."""
        self.num_tokens += num_tokens
        with torch.no_grad():
            rewards = objective.rewards(row)
            self._rewards.append((rewards, row.labels))
            for sign, name in _NAMES.items():
                own = row.labels == sign
                self._mean(f"rewards/{name}", rewards, own)
                self._mean(f"logps/{name}", row.average_logps, own)
                self._mean(f"logps_sum/{name}", row.logps, own)
                if row.reference_per_token_logps is not None:
                    self._mean(f"logps_shift/{name}", row.logratios / row.lengths, own)
            if len(row.pairs):
                self._has_pairs = True
                margins = row.margins(rewards)
                self._mean("rewards/margins", margins)
                self._mean("rewards/accuracies", (margins > 0).double())
            if row.mismatched_logratio is not None:
                self._mean("mismatched_logratio", row.mismatched_logratio)
            if row.reference_per_token_log_odds is not None:
                self._add_weights(row, feedback_weights(row.per_token_log_odds, row.reference_per_token_log_odds))
            if policy.rest_entropies is not None:
                self._mean("entropy", policy.entropies)
                if row.reference_per_token_logps is not None:
                    values = dtd_cross_entropy(
                        row.per_token_logps, row.per_token_log_odds, row.reference_per_token_logps, policy.rest_entropies
                    )
                    self._mean("dtd_loss", row.labels * row.sum_by_completion(values) / row.normalizers)

    def gather(self) -> None:
        """Adds up what the processes of a training have, each of its own rows; all of them then have all of it."""
        if num_processes() == 1:
            return
        own = (_to_cpu(self._sums), _to_cpu(self._counts), [(rewards.cpu(), labels.cpu()) for rewards, labels in self._rewards])
        everyones = gather((*own, self._has_pairs, self.num_tokens))
        self.__init__()  # type: ignore[misc]
        for sums, counts, rewards, has_pairs, num_tokens in everyones:
            for name in sums:
                self._sums[name] = sums[name] + self._sums.get(name, 0)
                self._counts[name] = counts[name] + self._counts.get(name, 0)
            self._rewards.extend(rewards)
            self._has_pairs |= has_pairs
            self.num_tokens += num_tokens

    def mean_weight(self) -> float | None:
        """Mean of BNF's weight w over all tokens, or None where no reference was read."""
        names = [name for name in (f"weights/{name}" for name in _NAMES.values()) if name in self._sums]
        if not names:
            return None
        return float(sum(self._sums[name] for name in names) / sum(self._counts[name] for name in names))

    def pop(self) -> dict[str, float]:
        """The means, after which counting starts anew."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        columns = (torch.stack([values[name] for name in names]).tolist() for values in (self._sums, self._counts))
        means = {name: total / count for name, total, count in zip(names, *columns, strict=True) if count}
        if not self._has_pairs and "rewards/chosen" in means and "rewards/rejected" in means:
            rewards, labels = (torch.cat(parts) for parts in zip(*self._rewards, strict=True))
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
            means["rewards/accuracies"] = area_under_curve(rewards[labels > 0], rewards[labels < 0])
        self.__init__()  # type: ignore[misc]
        return dict(sorted(means.items()))

    def _add_weights(self, row: RowLogps, weights: Tensor) -> None:
        signs = row.labels[row.completion_of_token]
        for sign, name in _NAMES.items():
            self._mean(f"weights/{name}", weights, signs == sign)
            self._mean(f"weights_below_1/{name}", (weights < 1).double(), signs == sign)

    def _mean(self, name: str, values: Tensor, own: Tensor | None = None) -> None:
        """Adds the values, or those of them that are `own`."""
        if own is None:
            own = torch.ones_like(values, dtype=torch.bool)
        total, number = torch.where(own, values, 0.0).double().sum(), own.sum()
        self._sums[name] = total + self._sums[name] if name in self._sums else total
        self._counts[name] = number + self._counts[name] if name in self._counts else number


def _to_cpu(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in values.items()}


def area_under_curve(chosen: Tensor, rejected: Tensor) -> float:
    """The share of (chosen, rejected) combinations in which the chosen one has the higher reward, ties counting half.

    (n,), (m,); in the order of (n + m)·log m, without the n·m combinations.
    """
    ordered = rejected.sort().values
    below, not_above = (torch.searchsorted(ordered, chosen, right=right) for right in (False, True))
    return float((below + not_above).double().mean() / (2 * len(ordered)))
