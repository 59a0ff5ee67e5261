import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bnf.model.logps import head_chunk, head_logps, logits_budget


def naive(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    softcap: float | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Full logits in the inputs' dtype, scaled and capped as transformers' Cohere and Gemma do it; then float32 or better."""
    logits = hidden @ weight.T
    if scale is not None:
        logits = logits * scale
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


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


@pytest.mark.parametrize(("softcap", "scale"), [(None, None), (3.0, None), (None, 0.3), (3.0, 0.3)])
@pytest.mark.parametrize("shape", [(1, 3, 2), (37, 24, 211), (130, 65, 1003)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_error_does_not_exceed_the_plain_computation(
    dtype: torch.dtype, shape: tuple[int, int, int], softcap: float | None, scale: float | None
) -> None:
    """Against float64, values and gradients are no worse than full logits in the same dtype, log-softmax in float32: over dtypes,
    odd shapes, and tokens whose loss is left out.
    """
    hidden, weight, targets = inputs(*shape)
    hidden, weight = (tensor.detach().to(dtype).double().requires_grad_() for tensor in (hidden, weight))
    factors = torch.linspace(-2, 1, len(targets), dtype=torch.float64)
    factors[::3] = 0
    exact = naive(hidden, weight, targets, softcap, scale)
    exact_grads = torch.autograd.grad((factors * exact).sum(), (hidden, weight))

    low = [tensor.detach().to(dtype).requires_grad_() for tensor in (hidden, weight)]
    plain = naive(low[0], low[1], targets, softcap, scale)
    plain_grads = torch.autograd.grad((factors.float() * plain).sum(), low)
    ours = head_logps(low[0], low[1], targets, scale=scale, softcap=softcap, chunk=16).logps
    grads = torch.autograd.grad((factors.float() * ours).sum(), low)

    assert ours.dtype == torch.float32 and [grad.dtype for grad in grads] == [dtype] * 2
    assert not grads[0][::3].any(), "tokens that are left out have no gradient"
    for name, value, peer, truth in zip(
        ("logps", "hidden", "weight"), (ours, *grads), (plain, *plain_grads), (exact, *exact_grads), strict=True
    ):
        ours_off, plain_off = ((tensor.double() - truth).norm() for tensor in (value, peer))
        # The weight's gradient is rounded once a chunk instead of once, and float32's own noise is a few units of its last place.
        tolerance = torch.finfo(dtype).eps * (2 if dtype == torch.float32 else 0.25)
        assert ours_off <= 1.3 * plain_off + tolerance * truth.norm(), name


@pytest.mark.parametrize("chunk", [1, 7, 23, 50])
@pytest.mark.parametrize(("scale", "softcap"), [(None, None), (0.3, 2.5)])
def test_the_gradient_of_the_entropies_is_that_of_full_logits(chunk: int, scale: float | None, softcap: float | None) -> None:
    """Of the entropies alone, and beside the log-probabilities'; a loss that doesn't read them has the same gradient to the bit."""
    hidden, weight, targets = inputs(num=23)
    factors = torch.linspace(-2, 1, 23, dtype=torch.float64)
    logits = hidden @ weight.T * (scale or 1)
    full = (logits if softcap is None else softcap * torch.tanh(logits / softcap)).log_softmax(-1)
    expected, entropies = full.gather(1, targets[:, None])[:, 0], -(full.exp() * full).sum(-1)
    settings: dict[str, Any] = {"scale": scale, "softcap": softcap, "chunk": chunk}
    values = head_logps(hidden, weight, targets, entropies=True, **settings)
    torch.testing.assert_close(values.entropies, entropies)
    assert values.entropies is not None
    for loss, theirs in (
        ((factors * values.entropies).sum(), (factors * entropies).sum()),
        ((factors * values.logps - values.entropies.square()).sum(), (factors * expected - entropies.square()).sum()),
    ):
        grads, of_full = (torch.autograd.grad(one, (hidden, weight), retain_graph=True) for one in (loss, theirs))
        torch.testing.assert_close(grads, of_full)
    one, other = (
        torch.autograd.grad(head_logps(hidden, weight, targets, entropies=asked, **settings).logps.sum(), weight)[0]
        for asked in (False, True)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("logit", [-80.0, -20.0, 0.0, 3.0, 20.0, 80.0])
@pytest.mark.parametrize("label", [0, 1])
def test_an_entropy_is_exact_at_the_extremes_and_its_gradient_to_float32s_rounding_of_one(logit: float, label: int) -> None:
    """Of two tokens with logits (d, 0): H = log(1 + e^−|d|) + |d|·q, with q the share of the less likely one; dH/dd = −d·q·(1 − q)."""
    hidden = torch.tensor([[logit]], requires_grad=True)
    values = head_logps(hidden, torch.tensor([[1.0], [0.0]]), torch.tensor([label]), entropies=True)
    assert values.entropies is not None
    (found,) = torch.autograd.grad(values.entropies.sum(), hidden)
    q = 1 / (1 + math.exp(abs(logit)))
    assert values.entropies.item() == pytest.approx(math.log1p(math.exp(-abs(logit))) + abs(logit) * q, rel=1e-5)
    assert found.item() == pytest.approx(-logit * q * (1 - q), rel=1e-5, abs=1e-8)


def test_odd_chunks_and_softcap_give_the_same_gradients() -> None:
    hidden, weight, targets = inputs(num=23)
    factors = torch.linspace(-2, 1, 23, dtype=torch.float64)
    expected = naive(hidden, weight, targets, 2.5)
    expected_grads = torch.autograd.grad((factors * expected).sum(), (hidden, weight))
    for chunk in (1, 7, 23, 50):
        values = head_logps(hidden, weight, targets, entropies=True, softcap=2.5, chunk=chunk)
        torch.testing.assert_close(values.logps, expected)
        full = (2.5 * torch.tanh(hidden @ weight.T / 2.5)).log_softmax(-1)
        torch.testing.assert_close(values.entropies, -(full.exp() * full).sum(-1).detach())
        grads = torch.autograd.grad((factors * values.logps).sum(), (hidden, weight))
        torch.testing.assert_close(grads, expected_grads)


@pytest.mark.parametrize("scale", [0.0625, 0.3, 4.0])
def test_a_scaled_head_is_a_head_of_scaled_weights(scale: float) -> None:
    """Log-probabilities, log-odds, entropies and both gradients, chunk by chunk; alone and before a cap."""
    hidden, weight, targets = inputs(num=23)
    factors = torch.linspace(-2, 1, 23, dtype=torch.float64)
    for chunk in (1, 7, 50):
        for softcap in (None, 2.5):
            found, expected = (
                head_logps(hidden, each, targets, entropies=True, softcap=softcap, scale=own, chunk=chunk)
                for each, own in ((weight, scale), (weight * scale, None))
            )
            for name in ("logps", "log_odds", "entropies"):
                torch.testing.assert_close(getattr(found, name), getattr(expected, name))
            grads, expected_grads = (
                torch.autograd.grad((factors * values.logps).sum(), (hidden, weight)) for values in (found, expected)
            )
            torch.testing.assert_close(grads, expected_grads)


def test_a_scaled_head_by_hand() -> None:
    """Logits (ln 4, 0, 0) halved are (ln 2, 0, 0): p = 2/4, odds 1, and dp's gradient by the first logit is half of 1 − p."""
    hidden = torch.tensor([[math.log(4)]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    values = head_logps(hidden, weight, torch.tensor([0]), scale=0.5, entropies=True)
    assert float(values.logps) == pytest.approx(math.log(0.5)) and float(values.log_odds) == pytest.approx(0, abs=1e-12)
    assert float(values.entropies) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
    (grad,) = torch.autograd.grad(values.logps.sum(), hidden)
    assert float(grad) == pytest.approx(0.25)


@pytest.mark.parametrize("chunk", [4, 100])
def test_a_second_backward_pass_gives_the_same(chunk: int) -> None:
    hidden, weight, targets = inputs()
    total = head_logps(hidden, weight, targets, entropies=True, chunk=chunk).logps.sum()
    first, second = (torch.autograd.grad(total, (hidden, weight), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_frozen_head_has_no_gradient() -> None:
    hidden, weight, targets = inputs()
    frozen = weight.detach()
    (grad,) = torch.autograd.grad(head_logps(hidden, frozen, targets).logps.sum(), hidden)
    (expected,) = torch.autograd.grad(head_logps(hidden, weight, targets).logps.sum(), hidden)
    assert torch.equal(grad, expected)


def test_gradient_of_the_weight_is_summed_in_its_own_dtype() -> None:
    """A bfloat16 computation over float32 weights: many small chunks lose nothing against one."""
    hidden, weight, targets = inputs(num=256, width=8, vocabulary=5)
    low, full = hidden.detach().bfloat16(), weight.detach().float().requires_grad_()
    one, many = (torch.autograd.grad(head_logps(low, full, targets, chunk=chunk).logps.sum(), full)[0] for chunk in (256, 4))
    assert one.dtype == torch.float32
    torch.testing.assert_close(one, many, rtol=0.01, atol=0.05)


@pytest.mark.parametrize("vocabulary", [97, 32_000, 49_152, 128_256, 151_936, 256_000, 262_208, 2**40])
def test_chunks_shrink_as_vocabularies_grow(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for on_accelerator in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=on_accelerator: there)
        chunk = head_chunk(vocabulary)
        assert chunk == 1 or logits_budget() * 0.7 <= chunk * vocabulary <= logits_budget()


# By itself: what other tests have left in their process would be taken again. It prints the bytes that the head took at its peak.
MEMORY_PROGRAM = """
import sys
from pathlib import Path
import torch
from bnf.model import logps

def resident(which):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which)]
    return int(line.split()[1]) * 1024

logps._LOGITS, num, vocabulary, width = map(int, sys.argv[1:])
torch.cuda.is_available = lambda: False
weight = torch.full((vocabulary, width), 0.1).requires_grad_()
hidden = torch.randn(num, width).bfloat16().requires_grad_()
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
logps.head_logps(hidden, weight, torch.randint(0, vocabulary, (num,)), softcap=30.0).logps.sum().backward()
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux, where a process can reset its peak memory")
# Of every change the chunks' size is tested above, and a training's peak by `tests/integration/test_memory.py`.
@pytest.mark.nightly
def test_memory_is_bounded_with_a_vocabulary_of_262144() -> None:
    """The process's own peak: bfloat16 and soft-capped, which takes most, forward and backward. A chunk's logits are held once, in
    bfloat16; an eighth of them in float32 a few times over: logits, the slope of their cap, what the norm is formed from.
    """
    budget, num, vocabulary, width = 2**25, 1024, 262_144, 8
    words = map(str, (budget, num, vocabulary, width))
    # Every block is given back when it is freed: holes in glibc's heap would be counted, more or less of them in every process.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    program = [sys.executable, "-c", MEMORY_PROGRAM, *words]
    taken = int(subprocess.run(program, check=True, capture_output=True, env=environment).stdout)
    assert 2 * budget < taken < 5 * budget
    assert taken < 0.05 * 4 * (num * vocabulary * 4), "without chunks it would be four times all logits"
