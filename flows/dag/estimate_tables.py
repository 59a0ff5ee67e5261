"""An estimate as people read it: rows of tables, and lines beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bnf.training.memory import trained_parameters
from bnf.training.row_memory import num_shares
from flows.dag.estimate import RecipeEstimate

_GIB = 2**30
_OPERATIONS = {"ZFLOP": 1e21, "EFLOP": 1e18, "PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9}


def heading(found: RecipeEstimate) -> list[str]:
    """The model, how it is trained, and on what."""
    config, trained = found.config, trained_parameters(found.shape, found.config)
    processes = f"{config.num_processes} process{'es' if config.num_processes > 1 else ''}"
    nodes = f" on {config.num_nodes} nodes" if config.num_nodes > 1 else ""
    what = "all trained" if trained == found.shape.parameters else f"{trained:,} trained"
    return [
        f"{_from_here(found.model)}: {found.shape.parameters:,} parameters, {what}",
        f"config.json: {_from_here(found.config_file)} ({found.found})",
        f"{processes}{nodes}, sharding {config.sharding}, rows of {found.memory.row.tokens:,} tokens",
        f"data: {found.seen}",
    ]


def memory_rows(found: RecipeEstimate) -> list[dict[str, str]]:
    """What each part takes on a device."""
    parts = found.memory.device.to_json()
    shares = num_shares(found.config)
    share = "" if shares == 1 else f", a share of 1/{shares}"
    rounds = found.config.weights == "bf16" and found.config.lora_r == 0
    layers = "their inputs; they are computed again" if found.config.gradient_checkpointing else "what they keep of a row"
    about = {
        "weights": "the model" + share,
        "gradients": "of what is trained" + share,
        "optimizer": found.config.optim + (", and what rounding takes" if rounds else "") + share,
        "buckets": "the gradients once more, to exchange them",
        "gathered": "two layers brought together, and a layer's gradients",
        "root": "embeddings and head brought together, and their gradient",
        "activations": f"of the layers: {layers}",
        "head": "logits of a chunk, weights and gradient of the head",
        "backward": "for a moment in the backward pass",
        "overhead": "CUDA and its libraries" if found.device == "cuda" else "Python and its libraries",
        "total": "",
    }
    column = "GiB a device" if found.device == "cuda" else "GiB a process"
    return [
        {"memory": name, column: f"{_gib(size):>{len(column)}}", "what it is": about[name]}
        for name, size in parts.items()
        if size
    ]


def gpu_rows(found: RecipeEstimate) -> list[dict[str, str]]:
    """Where it fits, and how long it takes there."""
    devices = found.config.num_processes
    rows = [
        {
            "on": f"{devices} × {gpu.name}",
            "GiB": f"{gpu.memory / _GIB:3.0f}",
            "fits": "yes" if gpu.fits else "no",
            "hours": _hours(gpu.hours) if gpu.fits and gpu.hours is not None else "",
            "what helps": gpu.remedy or "",
        }
        for gpu in found.gpus
    ]
    # A column in which nothing stands says nothing.
    return [{name: value for name, value in row.items() if any(one[name] for one in rows)} for row in rows]


def other_rows(found: RecipeEstimate) -> list[dict[str, str]]:
    """The host, the disk and the work."""

    def rows() -> Iterator[tuple[str, str]]:
        if found.device == "cuda":
            whose = "in each process" if not found.config.sharded else "in the first process of the host"
            yield "host memory", f"{_gib(found.memory.host)} GiB {whose}, while the weights are loaded"
        yield "a checkpoint", f"{_gib(found.memory.checkpoint)} GiB; for a moment there are two"
        yield "the policy", f"{_gib(found.memory.policy)} GiB"
        if found.kept:
            yield "policies that are kept", f"{found.kept} more, {_gib(found.kept * found.memory.policy)} GiB"
        if found.cost is not None:
            yield "optimizer steps", f"{found.cost.steps:,}"
            yield "tokens", f"{found.cost.tokens:,}"
            yield (
                "floating-point operations",
                f"{_operations(found.cost.flops)}, of them {_operations(found.cost.reference_flops)} for the reference",
            )

    return [{"beside it": name, "estimate": value} for name, value in rows()]


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f}"


def _hours(hours: float) -> str:
    return "< 0.1" if hours < 0.1 else f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"


def _operations(number: float) -> str:
    return next(f"{number / size:,.1f} {name}" for name, size in _OPERATIONS.items() if number >= size or name == "GFLOP")


def _from_here(path: Path | str) -> str:
    """A path in the working folder as it is written there; a hub id, or another path, as it is."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else str(path)
