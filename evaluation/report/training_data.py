"""The report's section on the training data: what preparation counted in its ledger."""

from __future__ import annotations

from evaluation.records import Record
from evaluation.report import charts
from evaluation.report.charts import Curve, Figure

_LABELS = ("preferred", "dispreferred")


def preferences(recipe: Record) -> str:
    """Where the recipe takes its preferences from, and what is done to them, in words."""
    given = recipe["data"] if isinstance(recipe["data"], list) else [recipe["data"]]
    sources = [
        f"{one['source']} from {one['path']}" + (f" (weight {one['weight']:g})" if one.get("weight") else "") for one in given
    ]
    prepare = recipe.get("prepare") or {}
    changes = [
        f"{100 * share:g} % of the {what}"
        for key, what in (
            ("mask_fraction", "pairs keep one side only"),
            ("mask_to_chosen", "pairs keep the chosen side only"),
            ("mask_to_rejected", "pairs keep the rejected side only"),
            ("flip_fraction", "verdicts are turned round"),
            ("contradict_fraction", "verdicts are repeated the other way round"),
            ("dev_fraction", "prompts are put aside to choose settings on"),
        )
        if (share := prepare.get(key))
    ]
    return "; ".join([", ".join(sources), *changes])


def figures(data: Record) -> list[Figure]:
    """Charts of the ledger's histograms."""
    if not data["num_groups"]:
        return []
    found = data["histograms"]
    completions = [(found[f"{label}_length"]["counts"], label) for label in _LABELS if sum(found[f"{label}_length"]["counts"])]
    drawn = []
    for title, rows, histogram, unit in (
        ("Prompts by length", [(found["prompt_length"]["counts"], "base")], found["prompt_length"], "tokens, from"),
        ("Completions by length", completions, found["preferred_length"], "tokens, from"),
        (
            "Groups by the prompt's share of their tokens",
            [(found["prompt_share"]["counts"], "base")],
            found["prompt_share"],
            "share, from",
        ),
    ):
        edges, rows = _cut(histogram["edges"], rows)
        lines = [Curve("", color, color) for _, color in rows] if len(rows) > 1 else []
        drawn.append(Figure(title, charts.counts(edges, rows, title, unit), lines))
    return drawn


def tables(data: Record) -> list[tuple[str, Record]]:
    """(title, name → count) of what the ledger counted."""
    noise = {name: data.get(f"num_{name}") for name in ("truncated", "changed", "flipped", "contradicted")}
    found: list[tuple[str, Record]] = [
        ("Rows", data["rows"]),
        *((f"Rows of {one['source']}", one["rows"]) for one in data.get("sources", ())),
        ("Completions left out of kept rows", data["completions_left_out"]),
        *((f"Columns of {name} that were not read", columns) for name, columns in data.get("columns_not_read", {}).items()),
        ("Rows that were changed", {name: count for name, count in noise.items() if count}),
        (
            "Sides that a mask hid in one pair, and another pair still shows",
            {"still there": data["num_still_there"]} if data["num_still_there"] else {},
        ),
        ("Groups with", data["groups_by_labels"]),
        (
            "Texts both preferred and dispreferred",
            {"contradictions": data["num_contradictions"]} if data["num_contradictions"] else {},
        ),
        ("Prompts by language", data["languages"]),
    ]
    return [(title, counts) for title, counts in found if counts]


def _cut(edges: list[float], rows: list[tuple[list[int], str]]) -> tuple[list[float], list[tuple[list[int], str]]]:
    """The histogram without its empty ends."""
    filled = [index for index in range(len(edges) - 1) if any(counts[index] for counts, _ in rows)]
    first, last = min(filled), max(filled)
    return edges[first : last + 2], [(counts[first : last + 1], color) for counts, color in rows]
