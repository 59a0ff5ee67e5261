"""What one step minimises does not depend on how its groups are split into rows, nor on who else is in a row."""

from dataclasses import replace

import pytest
import torch

from bnf.attention import ATTENTION
from bnf.groups import PromptGroup
from bnf.logps import TokenLogps, row_logps
from bnf.losses import RowReference, Totals, assemble, count, label_weights, total_loss
from bnf.objectives import load_objective, objective_names
from bnf.packing import Row, pack
from tests.unit.bnf.helpers import padded_logps, random_groups
from tests.unit.bnf.test_attention import make


def reference_of(row: Row, groups: list[PromptGroup]) -> RowReference:
    """Made-up reference values that belong to the token's place in the data, not in the row."""
    parts = []
    for index in row.indices:
        num = sum(len(completion.token_ids) for completion in groups[index].completions)
        parts.append(-torch.rand(num, dtype=torch.float64, generator=torch.Generator().manual_seed(index)) * 5 - 0.01)
    logps = torch.cat(parts)
    return RowReference(logps, logps - torch.log(-torch.expm1(logps)))


def gradient(name: str, groups: list[PromptGroup], max_tokens_per_row: int, normalization: str) -> tuple[float, torch.Tensor]:
    """A whole step over all groups: loss, and gradient over all parameters."""
    model = make("llama_tied")
    model.set_attn_implementation(ATTENTION)
    objective = load_objective(name)
    totals = count(objective, groups)
    loss = 0.0
    for row in pack(groups, max_tokens_per_row):
        policy = row_logps(model, row, bf16=False)
        seen = assemble(row, policy, reference_of(row, groups), length_normalization=normalization)
        part = total_loss(objective.losses(seen), seen, totals, (0.7, 1.3))
        part.backward()
        loss += float(part.detach())
    return loss, torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("normalization", ["own", "pair_min"])
@pytest.mark.parametrize("name", objective_names())
def test_loss_and_gradient_do_not_depend_on_the_split(name: str, normalization: str) -> None:
    groups = random_groups(8)
    longest = max(group.num_tokens for group in groups)
    one_loss, one_gradient = gradient(name, groups, 1000, normalization)
    many_loss, many_gradient = gradient(name, groups, longest, normalization)
    assert one_loss == pytest.approx(many_loss, rel=1e-5)
    torch.testing.assert_close(one_gradient, many_gradient, rtol=1e-4, atol=1e-5)
    assert one_gradient.abs().max() > 1e-3


@pytest.mark.parametrize("name", objective_names())
def test_packed_equals_padded(name: str) -> None:
    groups = random_groups(6)
    _, packed = gradient(name, groups, 1000, "own")
    model = make("llama_tied")
    model.set_attn_implementation("eager")
    (row,) = pack(groups, 1000)
    logps = padded_logps(model, row.groups)
    policy = TokenLogps(logps, (logps - torch.log(-torch.expm1(logps))).detach())
    seen = assemble(row, policy, reference_of(row, groups))
    objective = load_objective(name)
    total_loss(objective.losses(seen), seen, count(objective, groups), (0.7, 1.3)).backward()
    padded = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


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
