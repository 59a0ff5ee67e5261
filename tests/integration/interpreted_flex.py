"""FlexAttention's Triton kernels without a GPU: torch writes them as it does for CUDA, and Triton's interpreter runs them on the CPU.

    TRITON_INTERPRET=1 python -m tests.integration.interpreted_flex [NUMBER …]

One JSON line for each case: how far output and gradients are from blocks, and which kernels were interpreted. It needs Triton. What it
replaces is named below; the templates, the mask, the scores and their derivatives are those of CUDA.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter
from typing import Any

import torch
import torch._inductor.config
import triton
import triton.language as tl
from torch._inductor.choices import InductorChoices
from torch._inductor.kernel.flex import flex_attention as lowering
from torch._inductor.runtime.triton_helpers import libdevice
from torch.nn.attention import flex_attention as torch_flex
from transformers.integrations import flex_attention as transformers_flex
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.interpreter import InterpretedFunction

from bnf.data.packing import Span
from bnf.model.kernels import Shape, attend
from bnf.model.segments import SegmentPlan
from tests.integration.interpreted_flex_cases import CASES

# Shared prompts, in rows of two lengths: for the second one the kernel is compiled for any length.
ROWS = ((Span(0, 90, (40, 25)), Span(155, 10, (7, 1))), (Span(0, 60, (30, 50)), Span(140, 50, (20, 3))))

interpreted: Counter[str] = Counter()


class _Driver:
    """A driver of an H100 for the compiler's questions. Nothing runs on it."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cpu


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    """CUDA's library of functions can't be interpreted."""
    return 2 * tl.sigmoid(2 * x) - 1


def interpret() -> None:
    """Makes inductor write FlexAttention's kernels for tensors on the CPU as for CUDA, and Triton interpret them."""
    torch._inductor.config.cpu_backend = "triton"
    torch._inductor.config.compile_threads = 1
    torch._inductor.config.fx_graph_cache = False
    driver.set_active(_Driver())
    torch.cuda.get_device_capability = lambda *device: (9, 0)
    libdevice.tanh = _tanh
    # Torch refuses gradients on a CPU, and lowers to C++ there, which has none.
    torch_flex._validate_device = lambda *tensors: None
    lower = inspect.unwrap(lowering.flex_attention)
    assert lower.__code__.co_consts.count("cpu") == 1
    constants = tuple("no C++" if constant == "cpu" else constant for constant in lower.__code__.co_consts)
    lower.__code__ = lower.__code__.replace(co_consts=constants)
    heuristics = InductorChoices.get_config_heuristics
    InductorChoices.get_config_heuristics = lambda self, device_type="cuda": heuristics(self, "cuda")
    compiled = transformers_flex.compile_friendly_flex_attention

    def with_sums(*tensors: torch.Tensor, **options: Any) -> Any:
        """transformers asks for the sums of exponentials on CUDA alone; the backward pass reads them."""
        asked = options.pop("return_aux")
        output = compiled(*tensors, **options, return_aux=torch_flex.AuxRequest(lse=True))
        return output if asked else output[0]

    transformers_flex.compile_friendly_flex_attention = with_sums
    run = InterpretedFunction.run

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        interpreted[self.fn.__name__] += 1
        return run(self, *arguments, **options)

    InterpretedFunction.run = counted


def errors(case: dict[str, Any], spans: tuple[Span, ...]) -> dict[str, float]:
    """Relative errors of output and gradients against blocks in float64."""
    plan, dtype = SegmentPlan(spans), getattr(torch, case["dtype"])
    generator = torch.Generator().manual_seed(0)
    num_heads, num_key_heads = case["heads"]
    drawn = [
        torch.randn(1, plan.num_tokens, heads, case["head_dim"], generator=generator).to(dtype)
        for heads in (num_heads, num_key_heads, num_key_heads, num_heads)
    ]
    *inputs, grad = drawn
    if case["sinks"]:
        inputs.append(torch.randn(num_heads, generator=generator))
    shape = Shape(
        num_heads, num_key_heads, case["head_dim"], case["head_dim"] ** -0.5, case["window"], case["softcap"], case["sinks"]
    )
    results = []
    for kernel, inner in (("flex", dtype), ("blocks", torch.float64)):
        leaves = [tensor.to(inner).requires_grad_() for tensor in inputs]
        output = attend(kernel, shape, plan.window(case["window"]), plan, *leaves)
        results.append([output.detach(), *torch.autograd.grad(output, leaves, grad.to(inner))])
    names = ("output", "query", "key", "value", "sinks")
    return {
        name: float((ours.double() - theirs).norm() / theirs.norm())
        for name, ours, theirs in zip(names[: 1 + len(inputs)], *results, strict=True)
    }


def main() -> None:
    interpret()
    for number in map(int, sys.argv[1:] or range(len(CASES))):
        torch._dynamo.reset()
        interpreted.clear()
        rows = [errors(CASES[number], spans) for spans in ROWS]
        print(json.dumps({**CASES[number], "errors": rows, "kernels": dict(interpreted)}), flush=True)


if __name__ == "__main__":
    main()
