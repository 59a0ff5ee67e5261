"""What one step minimises does not depend on how its groups are split into rows, nor on who else is in a row or on padding.

The exceptions are KTO's reference point and whitened advantages, numbers of the global batch: these do not depend on the split.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bnf.data.groups import PromptGroup
from bnf.data.packing import Row, pack
from bnf.model.attention import ATTENTION
from bnf.model.logps import TokenLogps, row_logps
from bnf.objectives import OBJECTIVES, load_objective
from bnf.plugins import names
from bnf.reference.kl_pairs import kl_pair_rows, mean_logratio
from bnf.reference.values import KlPairReference, RowReference
from bnf.training.losses import Totals, assemble, count, label_weights, total_loss
from tests.unit.bnf.helpers import padded_logps, padded_prompt_logps, padded_values, random_groups
from tests.unit.bnf.test_attention import make

# Every objective with its defaults, and those whose options need something else of a row.
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in names(OBJECTIVES)),
    ("orpo", {"nll_scope": "all"}),
    ("reinforce", {"whiten": True}),
    ("grpo", {"loss_aggregation": "token_mean", "kl_coef": 0.1, "kl_estimator": "k2"}),
    ("ppo", {"entropy_coef": 0.2}),
    ("gspo", {"entropy_coef": 0.2}),
    ("topr", {"advantage": "leave_one_out"}),
]
each_objective = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}{options or ''}" for name, options in CASES])


def made_up(row: Row) -> Tensor:
    """Log-probabilities that belong to a token's place in the data, not in the row. (N,)"""
    parts = []
    for index, group in zip(row.indices, row.groups, strict=True):
        num = sum(len(completion.token_ids) for completion in group.completions)
        generator = torch.Generator().manual_seed(index)
        parts.append(-torch.rand(num, dtype=torch.float64, generator=generator) * 5 - 0.01)
    return torch.cat(parts)


def reference_of(row: Row, others: dict[int, PromptGroup]) -> RowReference:
    """Made-up values of a row's completions, and of the mismatched ones of its groups."""
    logps = made_up(row)
    other = Row(tuple(others[index] for index in row.indices), row.indices)
    return RowReference(logps, log_odds(logps), kl_pairs=KlPairReference(other, 3 * made_up(other)))


def log_odds(logps: Tensor) -> Tensor:
    return (logps - torch.log(-torch.expm1(logps))).detach()


def mismatched_of(groups: list[PromptGroup]) -> dict[int, PromptGroup]:
    """One mismatched group for each, the same however the groups are split into rows."""
    (row,) = kl_pair_rows(pack(groups, 1000))
    return dict(zip(row.indices, row.groups, strict=True))


def step(
    name: str, options: dict[str, Any], groups: list[PromptGroup], max_tokens_per_row: int, normalization: str
) -> tuple[float, Tensor]:
    """A whole step over all groups: loss, and gradient over all parameters."""
    model = make("llama_tied")
    model.set_attn_implementation(ATTENTION)
    objective = load_objective(name, options)
    rows = pack(groups, max_tokens_per_row)
    references = [reference_of(row, mismatched_of(groups)) for row in rows]
    totals = count(objective, groups)
    z = mean_logratio(model, references, bf16=False) if objective.needs_kl_pairs else None
    # Not clamped to 0, where it would count nothing.
    assert z is None or z > 0
    loss = 0.0
    for row, reference in zip(rows, references, strict=True):
        policy = row_logps(model, row, bf16=False, entropies=objective.needs_entropies, prompts=objective.needs_prompts)
        seen = assemble(
            row, policy, reference, length_normalization=normalization, kl_pair_logratio=z, batch_sums=totals.batch_sums
        )
        part = total_loss(objective.losses(seen), seen, totals, (0.7, 1.3))
        part.backward()
        loss += float(part.detach())
    return loss, gradient(model)


def gradient(model: PreTrainedModel) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("normalization", ["own", "pair_min"])
@each_objective
def test_loss_and_gradient_do_not_depend_on_the_split(name: str, options: dict[str, Any], normalization: str) -> None:
    groups = random_groups(8)
    longest = max(group.num_tokens for group in groups)
    one_loss, one_gradient = step(name, options, groups, 1000, normalization)
    many_loss, many_gradient = step(name, options, groups, longest, normalization)
    assert one_loss == pytest.approx(many_loss, rel=1e-5)
    torch.testing.assert_close(one_gradient, many_gradient, rtol=1e-4, atol=1e-5)
    assert one_gradient.abs().max() > 1e-3


@each_objective
def test_packed_equals_padded(name: str, options: dict[str, Any]) -> None:
    groups = random_groups(6)
    _, packed = step(name, options, groups, 1000, "own")
    model = make("llama_tied")
    model.set_attn_implementation("eager")
    (row,) = pack(groups, 1000)
    reference = reference_of(row, mismatched_of(groups))
    assert reference.kl_pairs is not None
    logps, entropies = padded_values(model, row.groups)
    policy = TokenLogps(logps, log_odds(logps), prompt_logps=padded_prompt_logps(model, row.groups), entropies=entropies)
    # Mismatched prompts and completions in a padded batch of their own.
    with torch.no_grad():
        ratios = padded_logps(model, reference.kl_pairs.row.groups) - reference.kl_pairs.logps
    z = ratios.sum() / len(reference.kl_pairs.row.lengths)
    objective = load_objective(name, options)
    totals = count(objective, groups)
    seen = assemble(row, policy, reference, kl_pair_logratio=z, batch_sums=totals.batch_sums)
    total_loss(objective.losses(seen), seen, totals, (0.7, 1.3)).backward()
    torch.testing.assert_close(packed, gradient(model), rtol=1e-4, atol=1e-5)


@each_objective
def test_a_groups_losses_do_not_depend_on_its_row_mates(name: str, options: dict[str, Any]) -> None:
    """Exactly, in float64: the same log-probabilities in a row of its own and in the middle of another."""
    groups = random_groups(5)
    (row,) = pack(groups, 1000)
    objective = load_objective(name, options)

    def losses(row: Row) -> dict[str, list[float]]:
        """Of each kind, all losses that are not zero, sorted: objectives that skip groups give no place in the row."""
        values = -1 - torch.cos(torch.arange(97, dtype=torch.float64))[row.targets]
        prompts = -2 - torch.sin(torch.arange(97, dtype=torch.float64))[row.prompt_targets]
        reference = reference_of(row, mismatched_of(groups))
        policy = TokenLogps(values, log_odds(values), prompt_logps=prompts, entropies=values.square())
        seen = assemble(
            row,
            policy,
            reference,
            length_normalization="pair_min",
            kl_pair_logratio=torch.tensor(0.3),
            batch_sums=count(objective, groups).batch_sums,
        )
        found = objective.losses(seen)
        kinds = {"completions": found.completions, "pairs": found.pairs}
        return {kind: [] if each is None else each[each != 0].tolist() for kind, each in kinds.items()}

    together, alone = losses(row), [losses(Row((groups[index],), (index,))) for index in row.indices]
    for kind in ("completions", "pairs"):
        assert together[kind] == pytest.approx([value for each in alone for value in each[kind]], rel=1e-14)
    assert together["completions"] or together["pairs"]


def test_label_weights_come_from_the_data_sets_counts() -> None:
    groups = random_groups(30)
    labels = [completion.label for group in groups for completion in group.completions]
    preferred, dispreferred = label_weights("balanced", groups)
    assert preferred * labels.count(1) == pytest.approx(len(labels) / 2)
    assert dispreferred * labels.count(-1) == pytest.approx(len(labels) / 2)
    assert label_weights("none", groups) == (1.0, 1.0)
    assert label_weights({"preferred": 2, "dispreferred": 0}, groups) == (2, 0)
    only = [replace(group, completions=group.completions[:1], pairs=()) for group in groups]
    assert label_weights("balanced", only)[0] == 0.5


def test_a_row_with_nothing_to_learn_from_has_no_gradient() -> None:
    groups = random_groups(1)
    silent = replace(groups[0], completions=tuple(replace(c, label=-1) for c in groups[0].completions), pairs=())
    logps = torch.full((sum(len(c.token_ids) for c in silent.completions),), -1.0, requires_grad=True)
    row = assemble(Row((silent,), (0,)), TokenLogps(logps, logps.detach()), None)
    loss = total_loss(load_objective("sft").losses(row), row, Totals(0, 0))
    loss.backward()
    assert loss.item() == 0 and logps.grad is not None and not logps.grad.any()
