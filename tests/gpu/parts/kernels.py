"""The kernels of attention against a plain computation that is written down here: values and gradients, over head sizes, dtypes, shared
keys, windows and soft caps; and how the choice between them behaves.

A kernel is compared with the plain computation in float64. In half precision it may be no further off than 1.5 times the plain one in
that dtype.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from bnf.data.packing import Span
from bnf.model import cuda_attention, kernels
from bnf.model.segments import SegmentPlan
from tests.gpu.checks import Check, Device, Figures

# In float32 matrix products are not rounded to TF32 here.
FLOAT32_TOLERANCE = 2e-5


@dataclass(frozen=True)
class Case:
    kernel: str
    head_dim: int
    dtype: torch.dtype
    heads: tuple[int, int] = (8, 2)
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False

    @property
    def name(self) -> str:
        found = f"{self.kernel}, heads {self.heads[0]}/{self.heads[1]} of {self.head_dim}, {self.dtype}".replace("torch.", "")
        found += "" if self.window is None else f", window {self.window}"
        found += "" if self.softcap is None else f", soft cap {self.softcap:g}"
        return found + (", sinks" if self.sinks else "")


def cases() -> Iterator[Case]:
    half, full = torch.bfloat16, torch.float32
    yield Case("flex", 64, half)
    yield Case("varlen", 64, half)
    yield Case("blocks", 64, half)
    yield Case("flex", 128, half)
    yield Case("flex", 64, full)
    yield Case("varlen", 128, half, window=40)
    # Gemma 2's, and the largest.
    yield Case("flex", 256, half, window=40, softcap=5.0)
    yield Case("flex", 96, half, window=40)
    # gpt-oss's.
    yield Case("flex", 64, half, window=40, sinks=True)
    # Heads that are no power of two, as SmolLM2's.
    yield Case("flex", 64, half, heads=(9, 3))
    yield Case("flex", 256, full, window=40, softcap=5.0)
    for head_dim in (96, 256):
        yield Case("varlen", head_dim, half)
    yield Case("varlen", 64, torch.float16, heads=(9, 3))
    yield Case("flex", 128, full)
    yield Case("flex", 80, half)
    for head_dim in (96, 128, 256):
        yield Case("blocks", head_dim, half, window=40, softcap=5.0 if head_dim == 256 else None)
    yield Case("blocks", 64, full)
    yield Case("blocks", 64, half, window=40, sinks=True)


def checks(device: Device) -> Iterator[Check]:
    for number, case in enumerate(cases()):
        if number == 3:
            yield Check("compilations for rows of many lengths", partial(compilations, device))
            yield Check("auto falls back where a kernel fails", partial(falls_back, device))
            yield Check("the kernels are tried on a model's shapes", partial(tries, device))
        if device.is_cuda:
            yield Check(case.name, partial(exact, device, case))
        elif number < 3 or case.softcap is not None or case.sinks:
            # Tracing takes seconds on a CPU, whatever the shape.
            yield Check(case.name, partial(exact, device, replace(case, heads=(2, 1))))


def rows(kernel: str, *, is_large: bool) -> tuple[Sequence[Span], ...]:
    """Rows of two lengths."""
    if kernel == "varlen":
        return ([Span(0, 150, (60,)), Span(210, 1, (1,)), Span(212, 30, (350,) if is_large else (50,))],)
    first = [Span(0, 150, (60, 45)), Span(255, 30, (20, 9, 1))]
    second = [Span(0, 300, (150, 170)), Span(620, 160, (133, 3, 90))] if is_large else [Span(0, 90, (50, 7))]
    return first, second


def written_down(spans: Sequence[Span], window: int | None) -> Tensor:
    """(T, T), True where the query sees the key: every prompt + completion a causal sequence, carried to its tokens' places."""
    seen = torch.zeros(spans[-1].stop, spans[-1].stop, dtype=torch.bool)
    for span in spans:
        prompt = torch.arange(span.start, span.start + span.prompt_length)
        for start, length in span.completion_starts():
            path = torch.cat([prompt, torch.arange(start, start + length)])
            causal = torch.ones(len(path), len(path), dtype=torch.bool).tril()
            seen[path[:, None], path[None, :]] |= causal if window is None else causal.triu(1 - window)
    return seen


def plain(case: Case, seen: Tensor, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None = None) -> Tensor:
    """(1, T, H, D) and (1, T, H_kv, D) → (1, T, H, D): all scores at once."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = query @ key.transpose(2, 3) * case.head_dim**-0.5
    if case.softcap is not None:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        column = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], dim=-1)
    return (scores.softmax(-1)[..., : len(seen)] @ value).transpose(1, 2)


def exact(device: Device, case: Case) -> Figures:
    worst: dict[str, float] = {}
    for spans in rows(case.kernel, is_large=device.is_cuda):
        plan, seen = SegmentPlan(spans), written_down(spans, case.window).to(device.name)
        generator = torch.Generator().manual_seed(0)
        *inputs, grad = (
            torch.randn(1, plan.num_tokens, heads, case.head_dim, generator=generator).to(device.name, case.dtype)
            for heads in (case.heads[0], case.heads[1], case.heads[1], case.heads[0])
        )
        if case.sinks:
            inputs.append(torch.randn(case.heads[0], generator=generator).to(device.name))
        shape = kernels.Shape(*case.heads, case.head_dim, case.head_dim**-0.5, case.window, case.softcap, case.sinks)
        results = []
        by_hand = partial(plain, case, seen)
        by_kernel = partial(kernels.attend, case.kernel, shape, case.window, plan)
        for inner, computed in ((torch.float64, by_hand), (case.dtype, by_hand), (case.dtype, by_kernel)):
            leaves = [tensor.to(inner).requires_grad_() for tensor in inputs]
            output = computed(*leaves)
            results.append([output.detach(), *torch.autograd.grad(output, leaves, grad.to(inner))])
        names = ("output", "query", "key", "value", "sinks")[: 1 + len(inputs)]
        for name, truth, peer, ours in zip(names, *results, strict=True):
            errors = [float((found.double() - truth).norm() / truth.norm()) for found in (ours, peer)]
            # A sink's gradient is a small rest of a sum over all tokens.
            factor = 3.0 if name == "sinks" else 1.5
            allowed = FLOAT32_TOLERANCE if case.dtype == torch.float32 else factor * errors[1] + 1e-3
            assert errors[0] <= allowed, (
                f"{name} of {plan.num_tokens} tokens is off by {errors[0]:.2g}, plainly {errors[1]:.2g}"
            )
            worst[name] = max(worst.get(name, 0.0), errors[0])
            worst[f"{name}, plainly"] = max(worst.get(f"{name}, plainly", 0.0), errors[1])
    return worst


def compilations(device: Device) -> Figures:
    """A row's length compiles nothing again after the second: past its limit of recompilations torch would compute unfused."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module = torch.nn.Module()
    seen = []
    for seed in range(12 if device.is_cuda else 4):
        plan = SegmentPlan([Span(0, 40 + 37 * seed, (30, 11 + seed)), Span(81 + 38 * seed, 20 + seed, (9,))])
        tensors = [
            torch.randn(1, plan.num_tokens, heads, 64, device=device.name, requires_grad=True).transpose(1, 2)
            for heads in (2, 1, 1)
        ]
        cuda_attention.flex(module, *tensors, plan, 0.125, None, None).sum().backward()
        with torch.no_grad():
            cuda_attention.flex(module, *tensors, plan, 0.125, None, None)
        seen.append(sum(torch._dynamo.utils.counters["frames"].values()) // 2)
    # With gradients and without, for one length and for any; the block mask's own two on CUDA.
    assert seen[-1] == seen[2], f"compilations after each row: {seen}"
    return {"after_each_row": seen}


def falls_back(device: Device) -> Figures:
    def broken(*arguments: object) -> Tensor:
        raise RuntimeError("out of resource: shared memory, Required: 1, Hardware limit: 0")

    shapes = frozenset({kernels.Shape(4, 2, 64, 0.125, None, None)})
    kernels.failure.cache_clear()
    with mock.patch.object(cuda_attention, "flex", broken):
        name = kernels.chosen(shapes, "auto", torch.bfloat16, device.name, None)
    kernels.failure.cache_clear()
    assert name == "bnf_segments_varlen_blocks", name
    return {"served": name}


def tries(device: Device) -> Figures:
    """What `auto` finds on this card, for the shapes of models that people train."""
    shapes = {
        "llama 3 8b": kernels.Shape(32, 8, 128, 128**-0.5, None, None),
        "smollm2 135m": kernels.Shape(9, 3, 64, 0.125, None, None),
        "gemma 2 9b": kernels.Shape(16, 8, 256, 0.0625, 4096, 50.0),
    }
    if not device.is_cuda:
        shapes = {"smollm2 135m": shapes["smollm2 135m"]}
    kernels.failure.cache_clear()
    found: Figures = {}
    with warnings.catch_warnings():
        for name, shape in shapes.items():
            own = frozenset({shape})
            found[name] = {
                "served": kernels.chosen(own, "auto", torch.bfloat16, device.name, None),
                "flex": kernels.failure("flex", own, torch.bfloat16, device.name),
                "varlen": None if shape.softcap else kernels.failure("varlen", own, torch.bfloat16, device.name),
            }
    wanting = {name: each for name, each in found.items() if each["flex"] or each["varlen"]}
    assert not wanting, wanting
    return found
