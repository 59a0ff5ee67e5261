"""Targets: the benchmarks whose own prompts the policy was trained on. What changes on the others is the tax."""

from __future__ import annotations

from evaluation.records import Record


def is_target(benchmark: str, recipe: Record) -> bool:
    """Whether the training's prompts come from the source that the benchmark is called after: `math` and `math_l5` of `math`."""
    data = recipe.get("data") or []
    sources = [one["source"] for one in (data if isinstance(data, list) else [data])]
    sources += [recipe["sample"]["source"]] if recipe.get("sample") else []
    return any(benchmark == source or benchmark.startswith(f"{source}_") for source in sources)
