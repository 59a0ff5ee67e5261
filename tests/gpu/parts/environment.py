"""What this machine is: packages, device, drivers, and its best rate of matrix products."""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version

import torch

from tests.gpu.checks import Check, Device, Figures


def checks(device: Device) -> Iterator[Check]:
    yield Check("packages", packages)
    yield Check("device", partial(facts, device))
    for dtype in (torch.bfloat16, torch.float32):
        yield Check(f"matrix products in {dtype}".replace("torch.", ""), partial(rate, device, dtype))


def packages() -> Figures:
    found = {
        name: importlib.util.find_spec(name) for name in ("torch", "transformers", "accelerate", "peft", "triton", "pytest")
    }
    return {"python": platform.python_version(), **{name: spec and version(name) for name, spec in found.items()}}


def facts(device: Device) -> Figures:
    cpu = {
        "cpu": platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if not device.is_cuda:
        return {**cpu, "name": f"CPU with {torch.backends.cpu.get_cpu_capability()}"}
    properties = torch.cuda.get_device_properties(0)
    return {
        **cpu,
        "name": properties.name,
        "num_devices": torch.cuda.device_count(),
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gb": properties.total_memory / 1e9,
        "shared_memory_per_block": properties.shared_memory_per_block_optin,
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def rate(device: Device, dtype: torch.dtype) -> Figures:
    """The best of several sizes, in operations a second: what a step is measured against."""
    best = {}
    for size in (4096, 8192) if device.is_cuda else (512, 1024):
        left, right = (torch.randn(size, size, device=device.name).to(dtype) for _ in range(2))
        left @ right
        seconds = []
        for _ in range(5):
            device.sync()
            started_s = time.perf_counter()
            left @ right
            device.sync()
            seconds.append(time.perf_counter() - started_s)
        best[size] = 2 * size**3 / min(seconds)
    return {"tflops": max(best.values()) / 1e12, "by_size": {str(size): found / 1e12 for size, found in best.items()}}
