"""How fast a Llama of 1B in random weights is by each kernel: forward and backward pass of a row, in tokens a second and as a share of the
rate of matrix products.

`tests.performance.flops` counts the operations of a step.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from bnf.data.groups import Completion, PromptGroup
from bnf.data.packing import Row
from bnf.model.lean import keep_less
from bnf.model.logps import row_logps
from tests.gpu.checks import Check, Device, Figures
from tests.gpu.parts.environment import rate
from tests.performance.flops import step_flops

# Llama 3.2 1B's, of https://huggingface.co/meta-llama/Llama-3.2-1B; and one for the rehearsal.
LLAMA_1B: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}


def checks(device: Device) -> Iterator[Check]:
    for shared in (True, False):
        for kernel in ("flex", "blocks") if shared else ("varlen", "flex", "blocks"):
            name = f"{kernel}, {'prompts shared' if shared else 'plain rows'}"
            yield Check(name, partial(steps, device, kernel, shared))


@cache
def matrix_products(device: Device) -> float:
    """Operations a second in bfloat16."""
    tflops: float = rate(device, torch.bfloat16)["tflops"]
    return tflops * 1e12


def row_of(device: Device, *, shared: bool, vocabulary: int) -> Row:
    """Groups of four completions; plain, each has one."""
    sizes = {"prompt": 512, "completion": 384, "groups": 4} if device.is_cuda else {"prompt": 24, "completion": 16, "groups": 2}
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (count,), generator=generator).tolist())

    groups = tuple(
        PromptGroup(
            f"g{number}",
            tokens(sizes["prompt"]),
            tuple(Completion(tokens(sizes["completion"]), 1 if place == 0 else -1) for place in range(4)),
        )
        for number in range(sizes["groups"])
    )
    return Row(groups, tuple(range(len(groups))), share_prompts=shared)


def step(model: PreTrainedModel, row: Row) -> None:
    row_logps(model, row, bf16=True).logps.mean().backward()
    model.zero_grad(set_to_none=True)


def steps(device: Device, kernel: str, shared: bool) -> Figures:
    config = LlamaConfig(**(LLAMA_1B if device.is_cuda else TINY))
    torch.manual_seed(0)
    with torch.device(device.name):
        name = f"bnf_segments_{kernel}"
        model = AutoModelForCausalLM.from_config(config, attn_implementation=name, dtype=torch.float32).train()
    keep_less(model)
    row = row_of(device, shared=shared, vocabulary=config.vocab_size)

    started_s = time.perf_counter()
    step(model, row)
    device.sync()
    first_s = time.perf_counter() - started_s
    step(model, row)
    if device.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    weights_bytes = sum(parameter.numel() * 4 for parameter in model.parameters())
    seconds = []
    for _ in range(7 if device.is_cuda else 2):
        device.sync()
        started_s = time.perf_counter()
        step(model, row)
        device.sync()
        seconds.append(time.perf_counter() - started_s)
    seconds.sort()
    median = seconds[len(seconds) // 2]
    flops = step_flops(config, row.spans).total
    figures = {
        "tokens": row.num_tokens,
        "first_step_s": first_s,
        "step_s": median,
        "step_s_min": seconds[0],
        "step_s_max": seconds[-1],
        "tokens_per_s": row.num_tokens / median,
        "tflops": flops / median / 1e12,
        "share_of_matrix_products": flops / median / matrix_products(device),
        "peak_above_weights_gb": (torch.cuda.max_memory_allocated() - weights_bytes) / 1e9 if device.is_cuda else None,
    }
    del model
    gc.collect()
    if device.is_cuda:
        torch.cuda.empty_cache()
    return figures
