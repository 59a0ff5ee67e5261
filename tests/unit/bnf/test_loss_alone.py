"""`bnf_loss`, for a loop of one's own: the published gradient, hand-computed numbers, padding, and what it refuses."""

import math

import pytest
import torch

from bnf.loss import bnf_loss

SIGNS = torch.tensor([1.0, -1.0])


def batch(vocabulary=7):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, vocabulary, requires_grad=True)
    reference = logits.detach() + torch.randn(2, 5, vocabulary)
    labels = torch.randint(vocabulary, (2, 5))
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    return logits, reference, labels, SIGNS, mask


def test_a_number_computed_by_hand():
    # Two tokens: p = 3/4 under the policy, 1/2 under the reference, so w = min(1, 3) = 1; and the other way round w = min(1, 1/3).
    policy, reference = torch.tensor([3.0, 1.0]).log(), torch.tensor([1.0, 1.0]).log()
    labels, one, mask = torch.tensor([[0, 0]]), torch.tensor([1.0]), torch.tensor([[0, 1]])
    assert bnf_loss(policy.expand(1, 2, 2), reference.expand(1, 2, 2), labels, one, mask).item() == pytest.approx(
        -math.log(0.75)
    )
    found = bnf_loss(reference.expand(1, 2, 2), policy.expand(1, 2, 2), labels, -one, mask).item()
    assert found == pytest.approx(math.log(0.5) / 3)


def test_the_gradient_is_the_published_losss_in_any_type():
    logits, reference, labels, signs, mask = batch()
    (found,) = torch.autograd.grad(bnf_loss(logits, reference, labels, signs, mask), logits)
    label, counted = labels[:, 1:, None], mask[:, 1:]
    logps = logits[:, :-1].log_softmax(-1)
    p, r = logps.gather(-1, label).exp(), reference[:, :-1].log_softmax(-1).gather(-1, label).exp()
    f_label = (p / r).clamp(max=1)
    target = ((1 - f_label) / (1 - p) * logps.exp()).scatter(-1, label, f_label).detach()
    published = -(signs * ((target * logps).sum(-1) * counted).sum(-1) / counted.sum(-1)).mean()
    (expected,) = torch.autograd.grad(published, logits)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    half = bnf_loss(logits.bfloat16(), reference.bfloat16(), labels, signs, mask)
    assert half.dtype == torch.float32
    assert torch.equal(half, bnf_loss(logits.bfloat16().float(), reference.bfloat16().float(), labels, signs, mask))


def test_padding_and_the_prompts_labels_change_nothing():
    logits, reference, labels, signs, mask = batch()
    expected = bnf_loss(logits, reference, labels, signs, mask)
    pad = torch.full((2, 3, 7), float("nan"))
    hidden = labels.where(mask.bool(), -100)
    found = bnf_loss(
        torch.cat([logits[:, :-1], pad[:, :1], pad], 1),  # the last logits predict nothing
        torch.cat([reference, pad], 1),
        torch.cat([hidden, torch.full((2, 3), -100)], 1),
        signs,
        torch.cat([mask, torch.ones(2, 3, dtype=mask.dtype)], 1),
    )
    assert torch.equal(found, expected)
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_does_not_count_may_be_anything(value):
    """A row of logits may be NaN where attention sees nothing, as at padding on the left; labels may be of no vocabulary there."""
    logits, reference, labels, signs, mask = batch()
    (expected,) = torch.autograd.grad(bnf_loss(logits, reference, labels, signs, mask), logits)
    uncounted = ~torch.cat([mask[:, 1:], mask[:, :1]], 1).bool()
    changed = logits.detach().masked_fill(uncounted[..., None], value).requires_grad_()
    others = reference.masked_fill(uncounted[..., None], value)
    (found,) = torch.autograd.grad(bnf_loss(changed, others, labels.where(mask.bool(), 99), signs, mask), changed)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_torchs_default_dtype_changes_nothing(dtype):
    given = batch()
    expected, before = bnf_loss(*given), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(bnf_loss(*given), expected)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("labels", lambda t: t[:, 1:], r"labels must have the shape \(2, 5\) .* got \(2, 4\); labels and mask are not shifted"),
        ("reference_logits", lambda t: t[..., :6], r"reference_logits must have the shape \(2, 5, 7\)"),
        ("signs", lambda t: t * 0.5, r"signs must be 1 or -1, .* got signs \[0.5, -0.5\]"),
        ("mask", lambda t: t * torch.tensor([[1], [0]]), r"\[4, 0\] tokens"),
        ("mask", lambda t: t | 1, r"first tokens \[1, 1\]"),
        ("signs", lambda t: t > 0, r"got signs \[True, False\]"),
        ("mask", lambda t: t * 0.5, r"mask must be 1 at the tokens of the completion and 0 elsewhere, got \[0.0, 0.5\]"),
        ("labels", lambda t: t + 3, r"labels must be tokens from 0 to 6, or -100, where mask is 1, got \d to [789]"),
        ("labels", lambda t: t * 0 - 1, r"where mask is 1, got -1 to -1"),
        ("logits", lambda t: t[0], r"logits must have the shape \(batch, tokens, vocabulary\)"),
        ("logits", lambda t: t[:0], r"with a completion at least, got \(0, 5, 7\)"),
    ],
)
def test_what_it_refuses(name, change, message):
    given = dict(zip(("logits", "reference_logits", "labels", "signs", "mask"), batch(), strict=True))
    given[name] = change(given[name])
    with pytest.raises(ValueError, match=message):
        bnf_loss(**given)
