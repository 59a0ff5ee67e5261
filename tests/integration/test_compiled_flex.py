"""How far FlexAttention can be checked on a CPU without Triton: traced with its gradients, compiled to C++ forward, and its block mask
compiled. `tests/integration/test_interpreted_flex.py` has the kernels themselves.
"""

import random
from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import create_block_mask
from transformers.integrations import flex_attention as transformers_flex

from bnf.data.packing import Span
from bnf.model import attention, cuda_attention
from bnf.model.segments import SegmentPlan

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def plan_of(seed: int) -> SegmentPlan:
    rng = random.Random(seed)
    spans: list[Span] = []
    for _ in range(3):
        lengths = tuple(rng.randint(5, 60) for _ in range(rng.randint(2, 4)))
        spans.append(Span(spans[-1].stop if spans else 0, rng.randint(20, 150), lengths))
    return SegmentPlan(spans)


def leaves_of(plan: SegmentPlan, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, plan.num_tokens, heads, 16, generator=generator).to(dtype).requires_grad_() for heads in (4, 2, 2)]


@pytest.mark.parametrize(("window", "softcap"), [pytest.param(None, None, marks=pytest.mark.nightly), (40, 2.0)])
def test_traced_it_has_the_gradients_of_blocks_and_few_compilations(
    window: int | None, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch refuses gradients on a CPU, though its dense computation has them."""
    counter = CompileCounterWithBackend("aot_eager")
    traced = torch.compile(torch_flex.flex_attention, backend=counter)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(
        transformers_flex, "compile_friendly_flex_attention", lambda *tensors, training, **options: traced(*tensors, **options)
    )
    module = torch.nn.Module()
    for seed in range(5):
        plan = plan_of(seed)
        leaves = leaves_of(plan, torch.float64)
        query, key, value = (leaf.transpose(1, 2) for leaf in leaves)
        flex = cuda_attention.flex(module, query, key, value, plan, 0.25, plan.window(window), softcap)
        blocks, _ = attention.segment_attention(
            module, query, key, value, None, segments=plan, scaling=0.25, sliding_window=window, softcap=softcap
        )
        grad = torch.linspace(-1, 1, flex.numel(), dtype=flex.dtype).view(flex.shape)
        torch.testing.assert_close(flex, blocks, rtol=1e-11, atol=1e-11)
        grads = (torch.autograd.grad(output, leaves, grad) for output in (flex, blocks))
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            cuda_attention.flex(module, query, key, value, plan, 0.25, plan.window(window), softcap)
    # With gradients and without: the first length's own kernel, then one for any length.
    assert counter.frame_count == 4


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.nightly)])
def test_compiled_to_cpp_it_is_no_further_off_than_blocks(dtype: torch.dtype) -> None:
    """Forward, and for one length: torch's C++ has no backward pass, and mixes up its arguments where lengths are any."""
    plan, module = plan_of(0), torch.nn.Module()
    with torch.no_grad(), torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        query, key, value = (leaf.detach().transpose(1, 2) for leaf in leaves_of(plan, dtype))
        exact, _ = attention.segment_attention(
            module, query.double(), key.double(), value.double(), None, segments=plan, scaling=0.25, sliding_window=40
        )
        blocks, _ = attention.segment_attention(module, query, key, value, None, segments=plan, scaling=0.25, sliding_window=40)
        flex = cuda_attention.flex(module, query, key, value, plan, 0.25, plan.window(40), None)
    ours, theirs = (float((output.double() - exact).norm() / exact.norm()) for output in (flex, blocks))
    assert ours <= 1.5 * theirs + 1e-7


@pytest.mark.parametrize("window", [pytest.param(None, marks=pytest.mark.nightly), 40])
def test_the_compiled_block_mask_is_the_mask(window: int | None) -> None:
    """As on CUDA, by inductor: the same blocks for rows of many lengths, by two compilations."""
    for seed in range(5):
        plan = plan_of(seed)
        given = (plan.mask_mod(window, CPU), None, None, plan.num_tokens, plan.num_tokens)
        with torch.no_grad():
            compiled = cuda_attention._compiled_block_mask(*given, device="cpu")
            plain = create_block_mask(*given, device="cpu")
        assert torch.equal(compiled.to_dense(), plain.to_dense())
        for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
            assert torch.equal(getattr(compiled, name), getattr(plain, name)), name
    assert counters["frames"]["total"] == 2
