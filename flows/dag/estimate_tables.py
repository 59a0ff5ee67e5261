"""An estimate as people read it: rows of tables, and lines beside them."""

from __future__ import annotations

from collections.abc import Iterator

from bnf.training.memory import trained_parameters
from bnf.training.row_memory import num_shares
from flows.dag.estimate import RecipeEstimate

_GIB = 2**30


def heading(found: RecipeEstimate) -> list[str]:
    """The model, how it is trained, and on what."""
    config, trained = found.config, trained_parameters(found.shape, found.config)
    processes = f"{config.num_processes} process{'es' if config.num_processes > 1 else ''}"
    nodes = f" on {config.num_nodes} nodes" if config.num_nodes > 1 else ""
    what = "all trained" if trained == found.shape.parameters else f"{trained:,} trained"
    return [
        f"{found.model}: {found.shape.parameters:,} parameters, {what}; config.json: {found.config_file} ({found.found})",
        f"{processes}{nodes}, sharding {config.sharding}, rows of {found.memory.row.tokens:,} tokens; data: {found.seen}",
    ]


def memory_rows(found: RecipeEstimate) -> list[dict[str, str]]:
    """What each part takes on a device."""
    parts = found.memory.device.to_json()
    shares = num_shares(found.config)
    share = "" if shares == 1 else f", a share of 1/{shares}"
    layers = "their inputs; they are computed again" if found.config.gradient_checkpointing else "what they keep of a row"
    about = {
        "weights": "the model" + share,
        "gradients": "of what is trained" + share,
        "optimizer": f"{found.config.optim}{share}",
        "buckets": "the gradients once more, to exchange them",
        "gathered": "two layers brought together, and a layer's gradients",
        "root": "embeddings and head brought together, and their gradient",
        "activations": f"of the layers: {layers}",
        "head": "logits of a chunk, weights and gradient of the head",
        "backward": "for a moment in the backward pass",
        "overhead": "CUDA and its libraries" if found.device == "cuda" else "Python and its libraries",
        "total": "",
    }
    return [
        {"memory": name, "GiB a device" if found.device == "cuda" else "GiB a process": _gib(size), "what it is": about[name]}
        for name, size in parts.items()
        if size
    ]


def gpu_rows(found: RecipeEstimate) -> list[dict[str, str]]:
    """Where it fits, and how long it takes there."""
    devices = found.config.num_processes
    return [
        {
            "on": f"{devices} × {gpu.name}",
            "GiB": _gib(gpu.memory),
            "fits": "yes" if gpu.fits else "no",
            "hours": "" if gpu.hours is None or not gpu.fits else f"{gpu.hours:.3g}",
            "what helps": gpu.remedy or "",
        }
        for gpu in found.gpus
    ]


def other_rows(found: RecipeEstimate) -> list[dict[str, str]]:
    """The host, the disk and the work."""

    def rows() -> Iterator[tuple[str, str]]:
        if found.device == "cuda":
            sharded = found.config.sharded
            whom = "the first process of the host" if sharded else "each process on the host"
            yield "memory of " + whom, f"{_gib(found.memory.host)} GiB, while the weights are loaded"
        yield "a checkpoint", f"{_gib(found.memory.checkpoint)} GiB; for a moment there are two"
        yield "the policy", f"{_gib(found.memory.policy)} GiB"
        if found.cost is not None:
            yield "optimizer steps", f"{found.cost.steps:,}"
            yield "tokens", f"{found.cost.tokens:,}"
            yield (
                "floating-point operations",
                f"{found.cost.flops:.3g}, of them {found.cost.reference_flops:.3g} for the reference",
            )

    return [{"": name, "estimate": value} for name, value in rows()]


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f}"
