"""BNF's label-only form against the published loss over the whole vocabulary, by autograd in float64 (arXiv 2410.04834, eq. 7
and 8).
"""

import math

import pytest
import torch
from torch import Tensor

from bnf.data.groups import Completion, PromptGroup
from bnf.data.packing import Row
from bnf.model.logps import TokenLogps, head_logps
from bnf.objectives import load_objective
from bnf.objectives.bnf import dtd_cross_entropy, feedback_weights
from bnf.reference.values import RowReference
from bnf.training.losses import Totals, assemble, count, total_loss
from bnf.training.metrics import StepMetrics
from tests.unit.bnf.helpers import row_of

VOCABULARY = 17


def published_loss(logits: Tensor, reference: Tensor, targets: Tensor) -> Tensor:
    """`−Σ_v f(v)·log π(v)` at each position: f(y) = min(1, p/r), the rest of f in the policy's proportions, no gradient
    through f. (N,)
    """
    logps = logits.log_softmax(-1)
    policy = logps.detach().exp()
    p = policy.gather(1, targets[:, None])
    r = reference.softmax(-1).gather(1, targets[:, None])
    f_label = (p / r).clamp(max=1)
    f = (1 - f_label) * policy / (1 - p)
    f.scatter_(1, targets[:, None], f_label)
    return -(f * logps).sum(-1)


def author_loss(logits: Tensor, reference: Tensor, targets: Tensor, lengths: tuple[int, int]) -> Tensor:
    """A micro-batch of one pair as the public implementation (sail-sg/oat, oat/learners/loss.py) has it: 1e-6 in the ratios,
    both completions' sums over the shorter one's length, chosen minus rejected. Scalar.
    """
    logps = logits.log_softmax(-1)
    policy = logps.detach().exp()
    label_logps = logps.gather(1, targets[:, None])[:, 0]
    p, r = label_logps.detach().exp(), reference.softmax(-1).gather(1, targets[:, None])[:, 0]
    f_label = (p / (r + 1e-6)).clamp(max=1)
    f_others = (1 - f_label + 1e-6) / (1 - p + 1e-6)
    values = f_label * label_logps + f_others * ((policy * logps).sum(-1) - p * label_logps)
    chosen, rejected = values.split(lengths)
    return -(chosen.sum() - rejected.sum()) / min(lengths)


def setting(scale: float = 2.0, num: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = (scale * torch.randn(num, VOCABULARY, dtype=torch.float64, generator=generator)).requires_grad_()
    reference = logits.detach() + torch.randn(num, VOCABULARY, dtype=torch.float64, generator=generator)
    return logits, reference, torch.randint(0, VOCABULARY, (num,), generator=generator)


def label_values(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values = head_logps(logits, torch.eye(VOCABULARY, dtype=torch.float64), targets, entropies=True)
    assert values.rest_entropies is not None
    return values.logps, values.log_odds, values.rest_entropies


@pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
def test_gradient_and_value_equal_the_published_loss(scale: float) -> None:
    logits, reference, targets = setting(scale)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(12)
    logps, log_odds, rest_entropies = label_values(logits, targets)
    reference_logps, reference_log_odds, _ = label_values(reference, targets)

    weights = feedback_weights(log_odds, reference_log_odds)
    (ours,) = torch.autograd.grad(-(signs * weights * logps).sum(), logits)
    published = published_loss(logits, reference, targets)
    (expected,) = torch.autograd.grad((signs * published).sum(), logits)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    assert 0.2 < float((weights < 1).double().mean()) < 0.8

    value = dtd_cross_entropy(logps, log_odds, reference_logps, rest_entropies)
    torch.testing.assert_close(value, published, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lengths", [(15, 9), (4, 20)])
def test_author_formula_agrees_where_the_reference_is_not_tiny(lengths: tuple[int, int]) -> None:
    """`length_normalization: pair_min` on a pair: twice our value and gradient, since ours is a mean over completions. What
    remains is the 1e-6: at most 1e-6/r of a position, and 1e-6/(1 − p).
    """
    logits, reference, targets = setting(1.0)
    logps, log_odds, rest_entropies = label_values(logits, targets)
    reference_logps, reference_log_odds, _ = label_values(reference, targets)
    assert reference_logps.min() > math.log(1e-3) and logps.max() < math.log(0.9)

    chosen, rejected = (Completion(tuple(ids.tolist()), 1 - 2 * n) for n, ids in enumerate(targets.split(lengths)))
    row = Row((PromptGroup("pair", (1,), (chosen, rejected), ((0, 1),)),), (0,))
    policy = TokenLogps(logps, log_odds, rest_entropies)
    values = RowReference(reference_logps.detach(), reference_log_odds)
    seen = assemble(row, policy, values, length_normalization="pair_min")
    objective = load_objective("bnf")
    (ours,) = torch.autograd.grad(total_loss(objective.losses(seen), seen, count(objective, row.groups)), logits)
    theirs = author_loss(logits, reference, targets, lengths)
    (expected,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(2 * ours, expected, rtol=1e-3, atol=1e-6)
    assert expected.abs().max() > 0.01

    metrics = StepMetrics()
    metrics.add_row(objective, seen, policy, 0)
    assert 2 * metrics.pop()["dtd_loss"] == pytest.approx(theirs.item(), rel=1e-4)


def test_derivative_is_the_papers() -> None:
    """−p(1−r)/r where p ≤ r, −(1−p) where p ≥ r: largest at p = r and falling to zero on both sides."""
    r = 0.3
    for p in (1e-6, 0.01, 0.1, 0.3, 0.5, 0.9, 1 - 1e-9):
        logits = torch.tensor([[math.log(p), math.log(1 - p)]], dtype=torch.float64, requires_grad=True)
        values = head_logps(logits, torch.eye(2, dtype=torch.float64), torch.tensor([0]))
        weight = feedback_weights(values.log_odds, torch.tensor([math.log(r / (1 - r))], dtype=torch.float64))
        (grad,) = torch.autograd.grad(-(weight * values.logps).sum(), logits)
        expected = -p * (1 - r) / r if p <= r else -(1 - p)
        assert float(grad[0, 0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("p_odds", [-100.0, -30.0, 0.0, 30.0, 100.0])
@pytest.mark.parametrize("r_odds", [-100.0, -30.0, 0.0, 30.0, 100.0])
def test_extremes_are_finite_and_right_in_float32(p_odds: float, r_odds: float) -> None:
    """p and r at 0 and 1 to float32's precision: the weight is the ratio of odds, and equal odds give exactly 1."""
    logits = torch.tensor([[p_odds, 0.0]], requires_grad=True)
    values = head_logps(logits, torch.eye(2), torch.tensor([0]), entropies=True)
    weight = feedback_weights(values.log_odds, torch.tensor([r_odds]))
    assert float(weight) == pytest.approx(math.exp(min(0.0, p_odds - r_odds)), rel=1e-5)
    if p_odds == r_odds:
        assert float(weight) == 1
    (grad,) = torch.autograd.grad(-(weight * values.logps).sum(), logits)
    # w·(1 − p)
    assert float(-grad[0, 0]) == pytest.approx(
        math.exp(min(0.0, p_odds - r_odds)) / (1 + math.exp(p_odds)), rel=1e-4, abs=1e-37
    )
    reference_logp = torch.nn.functional.logsigmoid(torch.tensor([r_odds]))
    assert values.rest_entropies is not None
    assert dtd_cross_entropy(values.logps.detach(), values.log_odds, reference_logp, values.rest_entropies).isfinite().all()


def test_loss_of_completions_by_hand() -> None:
    """Preferred with p = (½, ¼) against r = (½, ½): w = (1, ⅓); dispreferred with p = ¾ against r = ¼: w = 1."""
    half, quarter, three = math.log(0.5), math.log(0.25), math.log(0.75)
    row = row_of([[half, quarter], [three]], [1, -1], reference=[[half, half], [quarter]])
    losses = load_objective("bnf").losses(row)
    assert losses.pairs is None and losses.completions is not None
    assert losses.completions.tolist() == pytest.approx([-(half + quarter / 3) / 2, three])
    total_loss(losses, row, Totals(2, 0), (0.5, 2.0)).backward()
    assert row.per_token_logps.grad is not None
    assert row.per_token_logps.grad.tolist() == pytest.approx([-0.5 / 4, -0.5 / 12, 1.0])


def test_at_the_reference_it_is_signed_likelihood() -> None:
    logps = [[-0.1, -3.0], [-7.0], [-1e-9, -40.0, -0.7]]
    row = row_of(logps, [1, -1, -1], reference=logps)
    bnf, signed = (load_objective(name).losses(row).completions for name in ("bnf", "nll_signed"))
    assert bnf is not None and signed is not None
    assert torch.equal(bnf, signed)
