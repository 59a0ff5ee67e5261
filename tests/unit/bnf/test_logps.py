import math

import pytest
import torch

from bnf.logps import head_logps


def naive(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (hidden @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]


def inputs(num: int = 11, width: int = 6, vocabulary: int = 13) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num, width, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, width, dtype=torch.float64, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, (num,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_chunked_head_equals_full_logits(chunk: int) -> None:
    hidden, weight, targets = inputs()
    factors = torch.linspace(-2, 1, len(targets), dtype=torch.float64)
    values = head_logps(hidden, weight, targets, entropies=True, chunk=chunk)
    expected = naive(hidden, weight, targets)
    torch.testing.assert_close(values.logps, expected)
    torch.testing.assert_close(values.log_odds, (expected - torch.log(-torch.expm1(expected))).detach())
    full = (hidden @ weight.T).log_softmax(-1)
    torch.testing.assert_close(values.entropies, -(full.exp() * full).sum(-1).detach())

    grads = torch.autograd.grad((factors * values.logps).sum(), (hidden, weight))
    expected_grads = torch.autograd.grad((factors * expected).sum(), (hidden, weight))
    torch.testing.assert_close(grads, expected_grads)


@pytest.mark.parametrize("logit", [-80.0, -20.0, 0.0, 20.0, 80.0])
def test_float32_is_exact_at_the_extremes(logit: float) -> None:
    """p → 0 and p → 1 in float32: log-odds, log p and the gradient with respect to the label's logit against closed forms in
    float64.
    """
    # Three tokens with logits (logit, 0, 0): odds = e^logit / 2.
    hidden = torch.tensor([[logit]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [0.0]])
    values = head_logps(hidden, weight, torch.tensor([0]))
    logps = values.logps.detach()
    log_odds = logit - math.log(2)
    logp = -math.log1p(math.exp(-log_odds)) if log_odds > 0 else log_odds - math.log1p(math.exp(log_odds))
    assert float(values.log_odds) == pytest.approx(log_odds, rel=1e-6)
    assert float(logps) == pytest.approx(logp, rel=2e-6)
    (grad,) = torch.autograd.grad(values.logps.sum(), hidden)
    assert float(grad) == pytest.approx(1 / (1 + math.exp(log_odds)), rel=2e-5)


def test_bfloat16_error_does_not_exceed_the_plain_computation() -> None:
    """Against float64, the chunked head in bfloat16 is no worse than full bfloat16 logits taken to float32."""
    hidden, weight, targets = inputs(num=64, width=32, vocabulary=211)
    exact = naive(hidden, weight, targets)
    low_hidden, low_weight = hidden.detach().bfloat16(), weight.detach().bfloat16()
    plain = (low_hidden @ low_weight.T).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    ours = head_logps(low_hidden, low_weight, targets, chunk=16).logps
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() <= (plain - exact).abs().max() * 1.01 + 1e-6


def test_gradient_of_the_weight_is_summed_in_its_own_dtype() -> None:
    """A bfloat16 computation over float32 weights: many small chunks lose nothing against one."""
    hidden, weight, targets = inputs(num=256, width=8, vocabulary=5)
    low, full = hidden.detach().bfloat16(), weight.detach().float().requires_grad_()
    one, many = (torch.autograd.grad(head_logps(low, full, targets, chunk=chunk).logps.sum(), full)[0] for chunk in (256, 4))
    assert one.dtype == torch.float32
    torch.testing.assert_close(one, many, rtol=0.01, atol=0.05)


def test_memory_holds_one_chunk_of_logits() -> None:
    hidden, weight, targets = inputs(num=40)
    biggest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal biggest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] == 13:
                biggest = max(biggest, out.shape[0])
            return out

    with Watch():
        head_logps(hidden, weight, targets, chunk=8).logps.sum().backward()
    assert biggest == 8
