"""What is logged of a step or an evaluation. Nothing of a training depends on it: for a new metric no policy is trained again.

What decides something is computed elsewhere: the mean weight before the first step (`identity`), what the rules of `collapse` look at.
"""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bnf.data.groups import Completion, PromptGroup
from bnf.data.packing import pack
from bnf.model.logps import TokenLogps, row_logps
from bnf.objectives import BaseObjective, RowLogps
from bnf.objectives.bnf import dtd_cross_entropy, feedback_weights
from bnf.parallel.group import gather, num_processes
from bnf.reference.divergence import sampled_kl
from bnf.training.dev import Sample, area_under_curve
from bnf.training.means import Means

_NAMES = {1: "chosen", -1: "rejected"}


class StepMetrics(Means):
    """Means over the rows that were added since the last `pop`: rewards, log-probabilities, BNF's weights, the published loss's value.

    "chosen" and "rejected" stand for preferred and dispreferred.
    """

    def __init__(self) -> None:
        super().__init__()
        # Of each row its completions' rewards and labels.
        self._rewards: list[tuple[Tensor, Tensor]] = []
        self._has_pairs = False
        self.num_tokens = 0

    def add_row(self, objective: BaseObjective, row: RowLogps, policy: TokenLogps, num_tokens: int) -> None:
        """Adds a row; `policy` has entropies where the step is logged, or the objective reads them."""
        self.num_tokens += num_tokens
        with torch.no_grad():
            rewards = objective.rewards(row)
            self._rewards.append((rewards, row.labels))
            for sign, name in _NAMES.items():
                own = row.labels == sign
                self.add(f"rewards/{name}", rewards, own)
                self.add(f"logps/{name}", row.average_logps, own)
                self.add(f"logps_sum/{name}", row.logps, own)
                if row.reference_per_token_logps is not None:
                    self.add(f"logps_shift/{name}", row.shifts / row.lengths, own)
            if len(row.pairs):
                self._has_pairs = True
                margins = row.margins(rewards)
                self.add("rewards/margins", margins)
                self.add("rewards/accuracies", (margins > 0).double())
            for name, values in objective.metrics(row).items():
                self.add(name, values)
            if row.kl_pair_logratio is not None:
                self.add("mismatched_logratio", row.kl_pair_logratio)
            if row.reference_per_token_log_odds is not None:
                self._add_weights(row, feedback_weights(row.per_token_log_odds, row.reference_per_token_log_odds))
            if policy.entropies is not None:
                self.add("entropy", policy.entropies)
            if policy.rest_entropies is not None and row.reference_per_token_logps is not None:
                values = dtd_cross_entropy(
                    row.per_token_logps, row.per_token_log_odds, row.reference_per_token_logps, policy.rest_entropies
                )
                self.add("dtd_loss", row.labels * row.sum_by_completion(values) / row.normalizers)

    def gather(self) -> None:
        super().gather()
        if num_processes() == 1:
            return
        own = [(rewards.cpu(), labels.cpu()) for rewards, labels in self._rewards]
        everyones = gather((own, self._has_pairs, self.num_tokens))
        self._rewards = [pair for pairs, _, _ in everyones for pair in pairs]
        self._has_pairs = any(has_pairs for _, has_pairs, _ in everyones)
        self.num_tokens = sum(num_tokens for _, _, num_tokens in everyones)

    def pop(self) -> dict[str, float]:
        means = super().pop()
        if not self._has_pairs and "rewards/chosen" in means and "rewards/rejected" in means:
            rewards, labels = (torch.cat(parts) for parts in zip(*self._rewards, strict=True))
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
            means["rewards/accuracies"] = area_under_curve(rewards[labels > 0], rewards[labels < 0])
        self._rewards, self._has_pairs, self.num_tokens = [], False, 0
        return dict(sorted(means.items()))

    def _add_weights(self, row: RowLogps, weights: Tensor) -> None:
        signs = row.labels[row.completion_of_token]
        for sign, name in _NAMES.items():
            self.add(f"weights/{name}", weights, signs == sign)
            self.add(f"weights_below_1/{name}", (weights < 1).double(), signs == sign)


@dataclass(frozen=True)
class SampleMetrics:
    """What is logged of the policy's samples: KL to the reference and entropy in nats, mean length, share without an end."""

    number: int
    kl: float
    kl_per_token: float
    entropy: float
    tokens: float
    unterminated: float

    def to_json(self) -> dict[str, float]:
        """The metrics under their names in the log."""
        return {f"samples/{name}": value for name, value in asdict(self).items()}


def sample_metrics(
    samples: Sequence[Sample], policy: PreTrainedModel, reference: AbstractContextManager[PreTrainedModel] | None, *, bf16: bool
) -> SampleMetrics:
    """The metrics of samples of the policy. `reference` gives the reference's model, or is None where that is the policy itself."""
    groups = [
        PromptGroup(f"sample {index}", each.prompt_ids, (Completion(each.token_ids, 1),)) for index, each in enumerate(samples)
    ]
    rows = pack(groups, max(group.num_tokens for group in groups))
    with torch.no_grad():
        own = [row_logps(policy, row, bf16=bf16, entropies=True) for row in rows]
        logps = torch.cat([values.logps for values in own]).double()
        entropy = float(torch.cat([values.entropies for values in own if values.entropies is not None]).double().mean())
        kl = 0.0
        if reference is not None:
            with reference as model:
                theirs = torch.cat([row_logps(model, row, bf16=bf16).logps for row in rows]).double()
            kl = sampled_kl(logps, theirs)
    return SampleMetrics(
        number=len(samples),
        kl=kl / len(samples),
        kl_per_token=kl / len(logps),
        entropy=entropy,
        tokens=len(logps) / len(samples),
        unterminated=sum(not each.is_terminated for each in samples) / len(samples),
    )


def peak_memory_gb() -> float:
    """The most memory held so far: the accelerator's where there is one, else the process's resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    # In kibibytes, but for macOS, which counts bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
