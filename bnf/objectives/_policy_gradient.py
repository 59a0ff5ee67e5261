"""What the policy-gradient objectives share: advantages, probability ratios, and the KL term to the reference.

An advantage compares a sample's score with those of its prompt's other samples, which are all in one row. A ratio is that of the policy to
`old`, the policy that the training started from and that sampled the completions: exactly 1 before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bnf.objectives._base import BaseObjective, RowLogps, check_non_negative, check_option

if TYPE_CHECKING:
    from torch import Tensor

    from bnf.data.groups import PromptGroup

# TRL's: groups with nearly equal scores are not blown up.
_LEAST_STD = 1e-4
# `exp` of more would overflow, and of a clipped ratio the gradient would be NaN.
_MOST_LOG_RATIO = 20.0


@dataclass(frozen=True)
class SampleObjective(BaseObjective):
    """The base of the objectives that weigh a sample's likelihood by its advantage."""

    needs_scores: ClassVar[bool] = True
    needs_every_sample: ClassVar[bool] = True

    def learns_from_group(self, group: PromptGroup) -> bool:
        # Of samples that are equally good none has an advantage.
        return len({completion.score for completion in group.completions}) > 1


@dataclass(frozen=True)
class PolicyGradient(SampleObjective):
    """One with a KL term to the reference, and an entropy bonus.

    The KL term is `kl_coef` times an estimate (http://joschu.net/blog/kl-approx.html), d the log-ratio.

    k1, `d`, is a term of the scores, with `old` as the policy: in the loss its gradient would vanish in expectation. k2, `d²/2`, and k3,
    `exp(−d) − 1 + d`, are terms of the loss at each token. Where a token is more than e^20 times likelier under the reference, k3 goes on
    in a straight line: `exp` would overflow float32 below d = −88, and cut off it would push the token further down.

    The bonus takes `entropy_coef` times the policy's entropy at each token, over its whole vocabulary, off the loss (PPO, arXiv 1707.06347,
    eq. 9).
    """

    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0

    def __post_init__(self) -> None:
        check_non_negative("kl_coef", self.kl_coef, "0 leaves the term out, and with it the reference")
        check_choice("kl_estimator", self.kl_estimator, ("k1", "k2", "k3"))
        check_non_negative("entropy_coef", self.entropy_coef, "0 leaves the bonus out")
        unread = self.kl_coef == 0 and self.kl_estimator != "k3"
        check_option(not unread, "kl_estimator", "be k3, the default, where kl_coef is 0", self.kl_estimator, "set kl_coef too")

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return self.kl_coef > 0

    @property
    def needs_entropies(self) -> bool:
        return self.entropy_coef > 0

    @property
    def _shapes_scores(self) -> bool:
        return self.kl_coef > 0 and self.kl_estimator == "k1"

    def shaped_scores(self, row: RowLogps) -> Tensor:
        """The scores, with k1 less its term. (C,)"""
        return row.scores - self.kl_coef * (row.old_logps - row.reference_logps) if self._shapes_scores else row.scores

    def regularized(self, losses: Tensor, row: RowLogps, *, mean: bool = False) -> Tensor:
        """The completions' losses with k2's or k3's term and less the bonus, summed over a completion's tokens or with `mean` averaged.
        (C,)
        """
        if self.kl_coef and not self._shapes_scores:
            losses = losses + _over_completion(self._per_token_kl(row), row, mean=mean)
        if self.entropy_coef:
            assert row.per_token_entropies is not None
            losses = losses - self.entropy_coef * _over_completion(row.per_token_entropies, row, mean=mean)
        return losses

    def _per_token_kl(self, row: RowLogps) -> Tensor:
        assert row.reference_per_token_logps is not None
        ratios = row.per_token_logps - row.reference_per_token_logps
        return self.kl_coef * (ratios.square() / 2 if self.kl_estimator == "k2" else _exp(-ratios) - 1 + ratios)


@dataclass(frozen=True)
class WithBaseline(PolicyGradient):
    """One whose advantage is the score less a baseline: nothing, the mean of the prompt's samples, or that of its other samples (RLOO,
    arXiv 2402.14740). With `whiten` it has mean 0 and standard deviation 1 over the global batch. Without `negative_gradient` advantages
    below 0 are 0.
    """

    baseline: str = "leave_one_out"
    whiten: bool = False
    negative_gradient: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("baseline", self.baseline, ("none", "prompt_mean", "leave_one_out"))
        check_switch("whiten", self.whiten)
        check_switch("negative_gradient", self.negative_gradient)
        by_data = not (self.whiten and self._shapes_scores)
        check_option(by_data, "whiten", "be false with kl_estimator k1, which changes the scores", self.whiten, "take k2 or k3")

    def learns_from_group(self, group: PromptGroup) -> bool:
        return self.baseline == "none" or super().learns_from_group(group)

    def batch_sums(self, groups: Iterable[PromptGroup]) -> tuple[float, ...]:
        """How many advantages there are, their sum and the sum of their squares."""
        if not self.whiten:
            return ()
        found = [advantage for group in groups for advantage in group_advantages(group, self.baseline)]
        return float(len(found)), math.fsum(found), math.fsum(advantage**2 for advantage in found)

    def advantages(self, row: RowLogps) -> Tensor:
        """(C,)"""
        found = advantages(self.shaped_scores(row), row, self.baseline)
        if self.whiten:
            number, total, squares = row.batch_sums
            mean = total / max(number, 1)
            variance = max(squares - number * mean**2, 0.0) / max(number - 1, 1)
            found = (found - mean) / (math.sqrt(variance) + _LEAST_STD)
        return found if self.negative_gradient else found.clamp(min=0)


@dataclass(frozen=True)
class GroupNormalized(PolicyGradient):
    """One whose advantage is the score less the mean of the prompt's samples, divided by their standard deviation, or with `scale_rewards:
    none` not divided.
    """

    scale_rewards: str = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("scale_rewards", self.scale_rewards, ("group", "none"))

    def advantages(self, row: RowLogps) -> Tensor:
        """(C,)"""
        found = advantages(self.shaped_scores(row), row, "prompt_mean")
        if self.scale_rewards == "none":
            return found
        squares, counts = _by_group(found.square(), row)
        return found / ((squares / (counts - 1).clamp(min=1)).sqrt() + _LEAST_STD)


def advantages(scores: Tensor, row: RowLogps, baseline: str) -> Tensor:
    """Scores less the baseline. A prompt's only sample has nothing to be compared with, and the advantage 0. (C,) → (C,)"""
    if baseline == "none":
        return scores
    groups = row.group_of_completion
    best = scores.new_zeros(len(scores)).scatter_reduce(0, groups, scores, "amax", include_self=False)
    # Of equal scores no rounding makes an advantage.
    below = scores - best[groups]
    sums, counts = _by_group(below, row)
    above = below - sums / counts
    return above if baseline == "prompt_mean" else above * counts / (counts - 1).clamp(min=1)


def group_advantages(group: PromptGroup, baseline: str) -> list[float]:
    """The same of a group, without a row."""
    scores = [float(completion.score or 0.0) for completion in group.completions]
    if baseline == "none":
        return scores
    mean, number = math.fsum(scores) / len(scores), len(scores)
    scale = 1.0 if baseline == "prompt_mean" else number / max(number - 1, 1)
    return [scale * (score - mean) for score in scores]


def token_log_ratios(row: RowLogps) -> Tensor:
    """`log p − log old`. (N,)"""
    assert row.old_per_token_logps is not None
    return row.per_token_logps - row.old_per_token_logps


def clipped_losses(log_ratios: Tensor, advantages: Tensor, low: float, high: float | None) -> Tensor:
    """`−min(ρA, clip(ρ, 1 − low, 1 + high)·A)` (PPO, arXiv 1707.06347, eq. 7); without `high` it is `low`. Same shapes."""
    import torch

    ratios = _ratios(log_ratios)
    inside = ratios.clamp(1 - low, 1 + (low if high is None else high))
    return -torch.min(ratios * advantages, inside * advantages)


def clip_metrics(log_ratios: Tensor, advantages: Tensor, low: float, high: float | None) -> Mapping[str, Tensor]:
    """The ratios, and which of them are clipped, at the low and at the high end: these give no gradient."""
    ratios = _ratios(log_ratios.detach())
    return {
        "ratio": ratios,
        "clip_ratio/low": ((ratios < 1 - low) & (advantages < 0)).double(),
        "clip_ratio/high": ((ratios > 1 + (low if high is None else high)) & (advantages > 0)).double(),
    }


def check_clip(low: object, high: object, usual: str = "0.2 is usual") -> None:
    """Raises ValueError unless ratios can be clipped to these ends."""
    check_non_negative("epsilon", low, usual)
    check_option(isinstance(low, int | float) and low < 1, "epsilon", "be below 1", low, usual)
    if high is not None:
        check_non_negative("epsilon_high", high, "left out, it is epsilon")


def check_choice(key: str, value: object, choices: Sequence[str]) -> None:
    """Raises ValueError unless an option has one of the choices."""
    listed = f"{', '.join(choices[:-1])} or {choices[-1]}"
    check_option(value in choices, key, f"be {listed}", value, "leave it out for the default")


def check_switch(key: str, value: object) -> None:
    """Raises ValueError unless an option is true or false."""
    check_option(isinstance(value, bool), key, "be true or false", value, "write it without quotes")


def _over_completion(per_token: Tensor, row: RowLogps, *, mean: bool) -> Tensor:
    """Each completion's sum or mean. (N,) → (C,)"""
    sums = row.sum_by_completion(per_token)
    return sums / row.lengths if mean else sums


def _by_group(values: Tensor, row: RowLogps) -> tuple[Tensor, Tensor]:
    """For each completion the sum of its group's values, and how many completions the group has. (C,) → (C,), (C,)"""
    groups = row.group_of_completion
    sums = values.new_zeros(len(values)).index_add(0, groups, values)
    counts = values.new_zeros(len(values)).index_add(0, groups, values.new_ones(len(values)))
    return sums[groups], counts[groups]


def _ratios(log_ratios: Tensor) -> Tensor:
    return log_ratios.clamp(-_MOST_LOG_RATIO, _MOST_LOG_RATIO).exp()


def _exp(x: Tensor) -> Tensor:
    """`exp(x)`, and above 20 its tangent there, so that it and its gradient are finite and rise. Same shapes."""
    inside = x.clamp(max=_MOST_LOG_RATIO)
    return inside.exp() * (1 + (x - inside))
