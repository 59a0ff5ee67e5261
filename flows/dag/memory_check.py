"""Whether a training has the memory, before anything runs: the estimate of `bnf.training.memory` against what this machine has."""

from __future__ import annotations

from pathlib import Path

from bnf.data.sizes import DataSizes
from bnf.model.device import device_kind, devices
from bnf.model.shapes import read_shape
from bnf.training.config import TrainConfig
from bnf.training.fields import AUTO
from bnf.training.fitting import remedies
from bnf.training.gpus import ALLOCATOR_SHARE, GIB
from bnf.training.memory import estimate
from bnf.training.row_memory import Device, RowSizes
from flows.dag.checks import Check

# The estimate is within so much of measured peaks (docs/performance/memory.md): a training is refused where it is larger by more.
_TOLERANCE = 0.15
# Where the data aren't known, nobody knows how full rows get: then a row counts as this short one.
_SHORT_ROW = RowSizes(256, 76, (90, 90))


def memory_check(folder: Path, config: TrainConfig, data: DataSizes | None, free: int | None) -> Check | None:
    """The check of a model in a folder; None where its shape can't be read, which other checks say.

    Args:
        data: the prepared data; None where they aren't there.
        free: bytes of this machine's memory that are free; None where the system doesn't say.
    """
    try:
        shape = read_shape(folder / "config.json")
    except (ValueError, OSError):
        return None
    row = _row(config, data)
    device: Device = "cuda" if device_kind() == "cuda" else "cpu"
    needed = estimate(shape, config, row, device).device.total
    if device == "cuda":
        smallest = min((memory for _, memory in devices()), default=None)
        limit, there = smallest, "" if smallest is None else f"{smallest / GIB:.1f} GiB on a device"
        what = "each device"
    else:
        needed *= config.nproc_per_node
        limit, there = free, "" if free is None else f"{free / GIB:.1f} GiB free"
        what = "memory" if config.nproc_per_node == 1 else f"memory, shared by {config.nproc_per_node} processes,"
    said = f"{needed / GIB:.1f} GiB to train" + ("" if data else ", and more the longer its rows get")
    if limit is None:
        return Check("memory", None, f"unknown; {said}")
    if needed * (1 - _TOLERANCE) > limit:
        # What is named leaves a device's allocator its part.
        usable = limit * (1 - ALLOCATOR_SHARE) if device == "cuda" else limit
        remedy = remedies(
            shape, config, row, device, usable, longest=None if data is None else data.longest, processes_share=device == "cpu"
        )
        return Check("memory", f"{what} must hold {needed / GIB:.1f} GiB to train (estimated), got {there}; {remedy}")
    return Check("memory", None, f"{there}, {said} (estimated)")


def _row(config: TrainConfig, data: DataSizes | None) -> RowSizes:
    """The longest row: full, unless so many groups as a row may hold don't fill it."""
    if data is None:
        tokens = _SHORT_ROW.tokens if config.max_tokens_per_row == AUTO else min(config.row_tokens, _SHORT_ROW.tokens)
        return RowSizes(tokens, _SHORT_ROW.prompt, _SHORT_ROW.completions)
    if config.max_tokens_per_row == AUTO:
        # The least that a trial can find.
        return RowSizes(data.longest, data.prompt, data.completions)
    held = min(config.max_groups_per_row, data.groups) * (data.tokens / data.groups)
    tokens = min(config.row_tokens, max(data.longest, round(held)))
    return RowSizes(tokens, data.prompt, data.completions)
