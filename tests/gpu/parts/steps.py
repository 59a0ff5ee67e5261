"""The training benchmark's contenders that need nothing but torch and transformers: BNF, SFT on the same rows, padded SFT, and BNF's
reference pass, on a model of random weights. `tests/performance/training.py` compares them on real pairs, and with TRL.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.gpu.checks import Check, Device, Figures
from tests.performance import contenders

NAMES = ("bnf", "sft_packed", "sft_padded", "bnf_reference")
# SmolLM2-135M's, and one for the rehearsal.
SMOLLM2: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
TINY = SMOLLM2 | {"vocab_size": 512, "num_hidden_layers": 2, "hidden_size": 144, "intermediate_size": 128, "head_dim": 32}


def checks(device: Device) -> Iterator[Check]:
    for bf16 in (True, False) if device.is_cuda else (True,):
        for name in NAMES:
            yield Check(f"{name}, {'bf16' if bf16 else 'fp32'}", partial(step, device, name, bf16))


@cache
def model_dir(device: Device) -> Path:
    folder = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**(SMOLLM2 if device.is_cuda else TINY))).save_pretrained(folder)
    return folder


def batches(device: Device) -> list[contenders.Batch]:
    """Pairs whose prompts and completions are as long as chats' are: of very different lengths."""
    generator = torch.Generator().manual_seed(0)
    vocabulary, scale = (49152, 1) if device.is_cuda else (512, 8)

    def tokens(least: int, most: int) -> list[int]:
        count = int(torch.randint(least, most, (1,), generator=generator)) // scale
        return torch.randint(3, vocabulary, (count,), generator=generator).tolist()  # type: ignore[no-any-return]

    pairs = 8 if device.is_cuda else 2
    return [
        [{"prompt": tokens(40, 300), "completions": [tokens(16, 300), tokens(16, 300)]} for _ in range(pairs)]
        for _ in range(5 if device.is_cuda else 2)
    ]


def step(device: Device, name: str, bf16: bool) -> Figures:
    given = batches(device)
    model, work = getattr(contenders, name)(model_dir(device), given, bf16)
    seconds, peaks = [], []
    for turn in range(2):
        for number in range(len(given)):
            model.zero_grad(set_to_none=True)
            if device.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            device.sync()
            before = torch.cuda.memory_allocated() if device.is_cuda else 0
            started_s = time.perf_counter()
            work(number)
            device.sync()
            # The first time is for nothing: kernels are compiled.
            if turn:
                seconds.append(time.perf_counter() - started_s)
                peaks.append((torch.cuda.max_memory_allocated() - before) / 1e6 if device.is_cuda else None)
    sizes = [[len(g["prompt"]) + len(c) for g in batch for c in g["completions"]] for batch in given]
    return {
        "step_s": statistics.median(seconds),
        "step_s_min": min(seconds),
        "step_s_max": max(seconds),
        "peak_mb": max(peak for peak in peaks if peak is not None) if device.is_cuda else None,
        "real_tokens_per_batch": statistics.mean(map(sum, sizes)),
        "padded_tokens_per_batch": statistics.mean(max(each) * len(each) for each in sizes),
    }
