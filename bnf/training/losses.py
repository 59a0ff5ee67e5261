"""The number that is minimised, from an objective's losses of completions and pairs. It doesn't depend on how a batch is split into
rows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bnf.data.groups import PromptGroup
from bnf.data.packing import Row
from bnf.objectives import BaseObjective, Losses, RowLogps
from bnf.reference.values import RowReference

if TYPE_CHECKING:
    # It imports transformers, which counting does not need.
    from bnf.model.logps import TokenLogps
    from bnf.training.rows import TrainRow


@dataclass(frozen=True)
class Totals:
    """What the rows of a global batch share: what their losses are divided by, and where the objective reads them the mean log-ratio of
    its KL pairs and its sums.
    """

    num_completions: int
    num_pairs: int
    kl_pair_logratio: Tensor | None = None
    batch_sums: tuple[float, ...] = ()


def count(objective: BaseObjective, groups: Sequence[PromptGroup]) -> Totals:
    """How many completions and pairs of these groups the objective averages over, and its sums over them."""
    num_completions = num_pairs = 0
    for group in groups:
        num_completions += objective.num_completions(group)
        num_pairs += objective.num_pairs(group)
    return Totals(num_completions, num_pairs, batch_sums=objective.batch_sums(groups))


def label_weights(weighting: str | dict[str, float], groups: Sequence[PromptGroup]) -> tuple[float, float]:
    """(weight of preferred, weight of dispreferred) for `label_weighting`; `balanced` is N / 2N_s, from the data set's counts."""
    if isinstance(weighting, dict):
        return weighting["preferred"], weighting["dispreferred"]
    if weighting == "none":
        return 1.0, 1.0
    labels = Counter(completion.label for group in groups for completion in group.completions)
    return labels.total() / (2 * max(labels[1], 1)), labels.total() / (2 * max(labels[-1], 1))


def assemble(
    row: Row,
    policy: "TokenLogps",
    reference: RowReference | None,
    *,
    old: RowReference | None = None,
    base: RowReference | None = None,
    length_normalization: str = "own",
    kl_pair_logratio: Tensor | None = None,
    batch_sums: tuple[float, ...] = (),
) -> RowLogps:
    """What an objective sees of a row, on the policy's device and in its dtype.

    `old` are the values of the policy that the training started from; where there are none, that is the reference. `base` are the base
    model's, where the reference is another one.
    """
    like = policy.logps
    old = reference if old is None else old
    lengths = row.lengths.to(like)
    return RowLogps(
        per_token_logps=like,
        per_token_log_odds=policy.log_odds,
        reference_per_token_logps=None if reference is None else reference.logps.to(like),
        reference_per_token_log_odds=None if reference is None else reference.log_odds.to(like),
        completion_of_token=row.completion_of_token.to(like.device),
        lengths=lengths,
        normalizers=row.shortest_of_pair.to(like) if length_normalization == "pair_min" else lengths,
        labels=row.labels.to(like),
        scores=row.scores.to(like),
        group_of_completion=row.group_of_completion.to(like.device),
        pairs=row.pairs.to(like.device),
        kl_pair_logratio=kl_pair_logratio,
        old_per_token_logps=None if old is None else old.logps.to(like),
        base_per_token_logps=None if base is None else base.logps.to(like),
        batch_sums=batch_sums,
        per_token_entropies=policy.entropies,
        prompt_logps=None if policy.prompt_logps is None else _sum_by_prompt(row, policy.prompt_logps),
        prompt_lengths=row.prompt_lengths.to(like),
    )


def assemble_row(item: "TrainRow", policy: "TokenLogps", totals: Totals, *, length_normalization: str) -> RowLogps:
    """What an objective sees of a training's row, as `assemble`."""
    return assemble(
        item.row,
        policy,
        item.reference,
        old=item.old,
        base=item.base,
        length_normalization=length_normalization,
        kl_pair_logratio=totals.kl_pair_logratio,
        batch_sums=totals.batch_sums,
    )


def total_loss(losses: Losses, row: RowLogps, totals: Totals, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """A row's share of the global batch's loss: `Σ weight·completions / num_completions + Σ pairs / num_pairs`. Scalar."""
    # Where a row has nothing that the objective learns from, its loss is zero, with a gradient of zero.
    loss = row.per_token_logps.sum() * 0.0
    if losses.completions is not None:
        by_label = torch.where(row.labels > 0, weights[0], weights[1])
        loss = loss + (by_label * losses.completions).sum() / max(totals.num_completions, 1)
    if losses.pairs is not None:
        loss = loss + losses.pairs.sum() / max(totals.num_pairs, 1)
    return loss


def _sum_by_prompt(row: Row, per_token: Tensor) -> Tensor:
    """(M,) → (G,)"""
    lengths = row.prompt_lengths.to(per_token.device)
    group_of_token = torch.repeat_interleave(torch.arange(len(lengths), device=per_token.device), lengths)
    return per_token.new_zeros(len(lengths)).index_add(0, group_of_token, per_token)
