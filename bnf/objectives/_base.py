"""What an objective gets and gives.

An objective gets the completions of one row at a time (`RowLogps`). It gives one loss per completion, one per pair, or both (`Losses`).
The trainer adds them up over the global batch: `Σ weight·completion losses / number of completions + Σ pair losses / number of pairs`.
The numbers are the sums of `num_completions` and `num_pairs` over all groups of the global batch. So a loss depends neither on the
other groups nor on how the batch was split into rows. Where the objective needs KL pairs or sums over the batch (`batch_sums`), it depends
on the global batch through these numbers alone.

Torch is not imported here or at the top of an objective: a recipe's objective and options are checked without it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from bnf.data.groups import Completion, PromptGroup


@dataclass(frozen=True)
class RowLogps:
    """The completion tokens of a row: N tokens in C completions of G groups, with P pairs among the completions.

    Logarithms are natural, in float32 (float64 in tests). Gradient flows into `per_token_logps`, `per_token_entropies` and `prompt_logps`
    alone.
    """

    per_token_logps: Tensor  # (N,) log p of the token under the policy
    per_token_log_odds: Tensor  # (N,) log p/(1−p), without gradient
    reference_per_token_logps: Tensor | None  # (N,)
    reference_per_token_log_odds: Tensor | None  # (N,)
    completion_of_token: Tensor  # (N,) index of the completion
    lengths: Tensor  # (C,) tokens of each completion
    normalizers: Tensor  # (C,) what a completion's sum is divided by: its length, or the shortest of its pair
    labels: Tensor  # (C,) +1 or −1
    scores: Tensor  # (C,) reward or rating, NaN where there is none
    group_of_completion: Tensor  # (C,)
    pairs: Tensor  # (P, 2) indices of chosen and rejected
    per_token_entropies: Tensor | None = None  # (N,) the policy's entropy where it predicts the token, in nats
    prompt_logps: Tensor | None = None  # (G,) summed log-probability of each prompt's tokens after the first
    prompt_lengths: Tensor | None = None  # (G,) how many those are
    kl_pair_logratio: Tensor | None = None  # scalar: the global batch's mean over its KL pairs, without gradient
    old_per_token_logps: Tensor | None = None  # (N,) log p under the policy that this training started from
    base_per_token_logps: Tensor | None = None  # (N,) log p under the base model, where the recipe names another reference
    batch_sums: tuple[float, ...] = ()  # `BaseObjective.batch_sums`, added up over the groups of the global batch

    def sum_by_completion(self, per_token: Tensor) -> Tensor:
        """(N,) → (C,)"""
        return per_token.new_zeros(len(self.lengths)).index_add(0, self.completion_of_token, per_token)

    @property
    def logps(self) -> Tensor:
        """`S`: summed log-probability of each completion. (C,)"""
        return self.sum_by_completion(self.per_token_logps)

    @property
    def average_logps(self) -> Tensor:
        """`A = S/|y|`. (C,)"""
        return self.logps / self.lengths

    @property
    def reference_logps(self) -> Tensor:
        """(C,)"""
        assert self.reference_per_token_logps is not None
        return self.sum_by_completion(self.reference_per_token_logps)

    @property
    def old_logps(self) -> Tensor:
        """(C,)"""
        assert self.old_per_token_logps is not None
        return self.sum_by_completion(self.old_per_token_logps)

    @property
    def logratios(self) -> Tensor:
        """`S − S^ref`, the implicit reward without β. (C,)"""
        return self.logps - self.reference_logps

    @property
    def shifts(self) -> Tensor:
        """`S − S^base`: what training changed, which the log shows and no objective reads. Without values of the base model it is the
        log-ratio to the reference. (C,)
        """
        if self.base_per_token_logps is None:
            return self.logratios
        return self.logps - self.sum_by_completion(self.base_per_token_logps)

    def chosen(self, by_completion: Tensor) -> Tensor:
        """(C,) → (P,)"""
        return by_completion[self.pairs[:, 0]]

    def rejected(self, by_completion: Tensor) -> Tensor:
        """(C,) → (P,)"""
        return by_completion[self.pairs[:, 1]]

    def margins(self, by_completion: Tensor) -> Tensor:
        """Chosen minus rejected. (C,) → (P,)"""
        return self.chosen(by_completion) - self.rejected(by_completion)


@dataclass(frozen=True)
class Losses:
    """The losses of one row, in nats: per completion (zero for one that the objective doesn't learn from), per pair, or both."""

    completions: Tensor | None = None  # (C,)
    pairs: Tensor | None = None  # (P,), or one per group where an objective ranks a group's completions


@dataclass(frozen=True)
class BaseObjective(ABC):
    """An objective; a subclass's fields are its options, checked in `__post_init__`."""

    # Reads the reference's log-probabilities of the completions.
    needs_reference: ClassVar[bool] = False
    # Has a term over (chosen, rejected): data without pairs are an error.
    needs_pairs: ClassVar[bool] = False
    # Reads the policy's mean log-ratio to the reference on KL pairs: an extra pass before a step's first backward.
    needs_kl_pairs: ClassVar[bool] = False
    # Reads the completions' scores.
    needs_scores: ClassVar[bool] = False
    # Reads the log-probabilities of the completions under the policy that the training started from, which sampled them: `old`.
    needs_old: ClassVar[bool] = False
    # Compares a prompt's samples with each other, and takes them for draws from the policy: all of them are kept, those of equal text too,
    # and samples of another distribution than the policy's are refused.
    needs_every_sample: ClassVar[bool] = False
    # Settings that it reads, of those that only some objectives read. A recipe that sets one of the others is refused.
    reads: ClassVar[tuple[str, ...]] = ()

    @property
    def needs_prompts(self) -> bool:
        """Whether it reads the policy's log-probabilities of the prompts, which the head then computes too."""
        return False

    @property
    def needs_entropies(self) -> bool:
        """Whether it reads the policy's entropy at each token, which the head then computes too."""
        return False

    @property
    def needs_cache(self) -> bool:
        """Whether it reads log-probabilities that a pass before the training caches."""
        return self.needs_reference or self.needs_old

    @abstractmethod
    def losses(self, row: RowLogps) -> Losses:
        """The losses of a row's completions and pairs; gradient flows into `row.per_token_logps`."""

    def learns_from(self, completion: Completion) -> bool:
        """Whether the completion's loss has a weight above 0, before `label_weighting`."""
        return True

    def learns_from_group(self, group: PromptGroup) -> bool:
        """Whether the completions of the group together give a gradient, by their scores."""
        return True

    def num_completions(self, group: PromptGroup) -> int:
        """How many of a group's completions the completion losses are averaged over."""
        return len(group.completions)

    def num_pairs(self, group: PromptGroup) -> int:
        """How many of a group's pairs the pair losses are averaged over."""
        return len(group.pairs)

    def batch_sums(self, groups: Iterable[PromptGroup]) -> tuple[float, ...]:
        """Numbers that its losses read of the whole global batch, as sums over groups: as many for no group at all."""
        return ()

    def metrics(self, row: RowLogps) -> Mapping[str, Tensor]:
        """Further values for the log by name, of which the means are logged."""
        return {}

    def rewards(self, row: RowLogps) -> Tensor:
        """The reward that the objective implies for each completion, for the log: the log-ratio to the reference, or without one the
        mean log-probability. (C,)
        """
        return row.logratios if row.reference_per_token_logps is not None else row.average_logps


def check_option(holds: bool, key: str, rule: str, value: object, remedy: str) -> None:
    """Raises ValueError unless the rule of an objective's option holds."""
    if not holds:
        raise ValueError(f"objective_options.{key} must {rule}, got {value!r}; {remedy}")


def check_positive(key: str, value: object, remedy: str) -> None:
    """Raises ValueError unless an option is a finite number above zero."""
    check_option(_is_number(value) and value > 0, key, "be a number above 0", value, remedy)  # type: ignore[operator]


def check_non_negative(key: str, value: object, remedy: str) -> None:
    """Raises ValueError unless an option is a finite number of at least zero."""
    check_option(_is_number(value) and value >= 0, key, "be a number of at least 0", value, remedy)  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def negative_log_sigmoid(x: Tensor) -> Tensor:
    """`−log σ(x)`, finite for any x."""
    from torch.nn.functional import softplus

    return softplus(-x)


def log_odds_of(logps: Tensor) -> Tensor:
    """`log p − log(1−p)`; p is taken as at most the largest float32 below 1, so the result is finite. Same shapes."""
    import torch

    logps = logps.clamp(max=-torch.finfo(torch.float32).eps)
    return logps - (-torch.expm1(logps)).log()


def stack(terms: Sequence[Tensor], like: Tensor) -> Tensor:
    """Scalars as one vector; without any, an empty one on the device of `like`."""
    import torch

    return torch.stack(list(terms)) if terms else like.new_zeros(0)
