"""What checks are made of: a name and a function, the device, and on a CPU what stands in for CUDA's kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations import flex_attention as transformers_flex

from bnf.model import attention, cuda_attention, kernels

Figures = dict[str, Any]


class Skipped(Exception):
    """A check that can't be done here, and why."""


@dataclass(frozen=True)
class Check:
    """A check: it asserts, and returns figures."""

    name: str
    run: Callable[[], Figures]


@dataclass(frozen=True)
class Device:
    """Where the checks run. On a CPU all is smaller, and CUDA's kernels have stand-ins."""

    name: str

    @property
    def is_cuda(self) -> bool:
        return self.name == "cuda"

    def sync(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def stand_ins(self) -> Iterator[None]:
        """On a CPU: rows are served as on CUDA, FlexAttention is traced and computed dense, FlashAttention sequence by sequence."""
        if self.is_cuda:
            yield
            return
        served = attention.serving
        dense = torch.compile(torch_flex.flex_attention, backend="aot_eager")
        with contextlib.ExitStack() as stack:
            for target, name, replacement in (
                (attention, "serving", lambda device, *rest: served(torch.device("cuda"), *rest)),
                (kernels, "there_is_a_choice", lambda: True),
                (cuda_attention, "varlen_attn", by_sequence),
                (torch_flex, "_validate_device", lambda *tensors: None),
                (transformers_flex, "compile_friendly_flex_attention", partial(_compiled, dense)),
            ):
                stack.enter_context(mock.patch.object(target, name, replacement))
            yield


def _compiled(dense: Callable[..., Any], *tensors: Tensor, training: bool = False, **options: Any) -> Any:
    return dense(*tensors, **options)


def by_sequence(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    longest: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """`varlen_attn`, one sequence after another."""
    outputs = []
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        part = slice(start, stop)
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)[None, :]
        seen = (distance >= 0) & (distance <= (window_size[0] if window_size[0] >= 0 else stop))
        sequence = (tensor[part].transpose(0, 1)[None] for tensor in (query, key, value))
        output = scaled_dot_product_attention(*sequence, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)
