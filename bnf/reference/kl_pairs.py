"""KL pairs: each prompt with the (mismatched) completions of another prompt.

The policy's log-ratio to the reference on them estimates its divergence: one number for a whole global batch, against which some
objectives measure their rewards (KTO, arXiv 2402.01306, section 4.2). The rows decide the pairs. So the reference's values
of the pairs are cached like those of the completions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bnf.data.groups import LazyGroups, PromptGroup
from bnf.data.packing import Row
from bnf.model.logps import row_logps
from bnf.reference.values import RowReference

# A group, as the groups of its row and its place among them.
_Place = tuple[Sequence[PromptGroup], int]


def kl_pair_rows(rows: Sequence[Row]) -> list[Row]:
    """For each row a row of its KL pairs: its prompts, each with the completions of the group before it; the first has the last's.

    So a row and its KL pairs hold the same completions and as many tokens. Where a row holds no other prompt, the nearest group of
    another prompt in the rows before gives its completions. A completion is cut where prompt and completion together would be longer
    than the longest of the data.

    Raises:
        ValueError: there is only one prompt.
    """
    prompts = (group.prompt_ids for row in rows for group in row.groups)
    first = next(prompts, None)
    if all(prompt_ids == first for prompt_ids in prompts):
        raise ValueError(
            "groups must hold at least 2 different prompts to mismatch their completions, got 1; "
            "add prompts, or take an objective that needs no mismatched completions"
        )
    longest = max(
        len(group.prompt_ids) + len(completion.token_ids)
        for row in rows
        for group in row.groups
        for completion in group.completions
    )
    places = [(row.groups, place) for row in rows for place in range(len(row.groups))]
    pairs: list[Row] = []
    start = 0
    for row in rows:
        others: list[_Place] = []
        for place, group in enumerate(row.groups):
            before = _before(row.groups, place, places, start)
            others.append(next((own, at) for own, at in before if own[at].prompt_ids != group.prompt_ids))
        pairs.append(Row(_KLPairGroups(row.groups, others, longest), row.indices, row.share_prompts))
        start += len(row.groups)
    return pairs


class _KLPairGroups(LazyGroups):
    """The prompts of groups, each with the completions of the group at another place, cut where both are longer than `longest`."""

    def __init__(self, groups: Sequence[PromptGroup], others: Sequence[_Place], longest: int) -> None:
        self._groups, self._others, self._longest = groups, others, longest

    def __len__(self) -> int:
        return len(self._groups)

    def _make(self, place: int) -> PromptGroup:
        groups, at = self._others[place]
        group, other = self._groups[place], groups[at]
        room = self._longest - len(group.prompt_ids)
        completions = tuple(replace(each, token_ids=each.token_ids[:room]) for each in other.completions)
        return PromptGroup(f"{group.id} with {other.id}", group.prompt_ids, completions)


def mean_logratio(model: PreTrainedModel, references: Sequence[RowReference | None], *, bf16: bool) -> Tensor:
    """The mean over the KL pairs of all these rows of their summed log-ratio to the reference, in nats. Scalar, without gradient or
    dropout.
    """
    was_training = model.training
    model.eval()
    total, num_completions = torch.zeros((), dtype=torch.float64), 0
    with torch.no_grad():
        for reference in references:
            assert reference is not None and reference.kl_pairs is not None
            policy = row_logps(model, reference.kl_pairs.row, bf16=bf16)
            # Per token first: where policy and reference are one, every difference is exactly zero.
            total = total.to(policy.logps.device) + (policy.logps - reference.kl_pairs.logps.to(policy.logps)).double().sum()
            num_completions += len(reference.kl_pairs.row.lengths)
    model.train(was_training)
    return total / num_completions


def _before(own: Sequence[PromptGroup], place: int, places: Sequence[_Place], start: int) -> Iterator[_Place]:
    """Places of groups in the order in which they are taken: backwards through the row, then through all rows from the one before."""
    for back in range(1, len(own)):
        yield own, place - back
    for back in range(1, len(places) + 1):
        yield places[start - back]
