"""Several samples of each item in the report: pass@k and maj@k of both models, compared item by item, and how completions were drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from markupsafe import Markup

from evaluation.formats import NONE, difference, interval, number
from evaluation.records import Record
from evaluation.report import charts
from evaluation.report.inputs import MODELS
from evaluation.samples import interval_around, values_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OF_ONE = (
    "values are the items' shares of right samples, and intervals are over items, since an item's samples are not independent"
)
OF_SHARES = (
    "values are the items' shares of right samples, intervals are over items, since an item's samples are not independent, and p is "
    "Student's of the paired differences; an item is gained where more than half of its samples came to be right"
)
_PASS = "pass@"


def in_words(sampling: Record | None) -> str:
    """`16 samples of each item at temperature 0.6, top_p 0.95`."""
    if sampling is None:
        return "one greedy completion of each item"
    many = "one sample" if sampling["num_samples"] == 1 else f"{sampling['num_samples']} samples"
    nucleus = f", top_p {sampling['top_p']:g}" if sampling["top_p"] != 1 else ""
    return f"{many} of each item at temperature {sampling['temperature']:g}{nucleus}"


def sampling_of(entry: Record) -> Record | None:
    """How a benchmark's completions were drawn, by its entry in the summary."""
    return next((entry[model].get("sampling") for model in MODELS if model in entry), None)


def num_samples_of(entry: Record) -> int:
    """The number of samples of each item in a benchmark's entry."""
    return int(next((entry[model].get("num_samples", 1) for model in MODELS if model in entry), 1))


def sampling_note(name: str, entry: Record) -> str | None:
    """What has to be read with a score of sampled completions; None of one greedy completion of each item."""
    sampling = sampling_of(entry)
    if sampling is None:
        return None
    if sampling["num_samples"] == 1:
        return f"{name}: {in_words(sampling)}, with a fixed seed; another seed gives other completions."
    shares = OF_SHARES if "delta" in entry else _OF_ONE
    return f"{name}: {in_words(sampling)}, and the accuracy is avg@{sampling['num_samples']}: {shares}."


def compare_at_k(base: Mapping[str, Record], aligned: Mapping[str, Record], num_samples: int) -> Record:
    """By `pass@k` and `maj@k` the paired difference over the items that both models have, in points, with its 95 % interval over items."""
    shared = [id for id in base if id in aligned]
    if not shared:
        return {}
    clusters = [base[id].get("cluster", id) for id in shared]
    before, after = (values_at({id: scores[id] for id in shared}, num_samples) for scores in (base, aligned))
    found: Record = {}
    for name in before:
        if name in after:
            changes = [after[name][id] - before[name][id] for id in shared]
            ci = interval_around(changes, clusters)
            found[name] = {"delta": 100 * math.fsum(changes) / len(changes), "delta_ci": list(ci) if ci else None}
    return found


def at_k_rows(summary: Record, label: Mapping[str, str]) -> list[dict[str, str]]:
    """A row of text for each benchmark with several samples and each figure of them; rates in percent."""
    rows = []
    for name, entry in summary["benchmarks"].items():
        models = [model for model in MODELS if "at_k" in entry.get(model, {})]
        for figure in entry[models[0]]["at_k"] if models else ():
            values = {model: entry[model]["at_k"].get(figure) for model in models}
            row = {"benchmark": label[name], "figure": figure} | {model: _value(found) for model, found in values.items()}
            if len(models) == len(MODELS):
                delta = entry.get("at_k_delta", {}).get(figure)
                row["Δ [95 %]"] = NONE if delta is None else difference(delta["delta"], delta["delta_ci"])
            rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column, NONE) for column in columns} for row in rows]


def curves(summary: Record, label: Mapping[str, str]) -> list[charts.Figure]:
    """For each benchmark with several samples a chart of pass@k by k, with a line for each model."""
    found = []
    for name, entry in summary["benchmarks"].items():
        lines = {
            model: [
                (int(figure.removeprefix(_PASS)), value["value"], value["ci"])
                for figure, value in entry[model]["at_k"].items()
                if figure.startswith(_PASS)
            ]
            for model in MODELS
            if "at_k" in entry.get(model, {})
        }
        if lines:
            title = f"{label[name]}: pass@k by k, in percent"
            legend = [charts.Curve(model, model, model) for model in lines]
            found.append(charts.Figure(title, _curve(lines, title), legend))
    return found


def _value(found: Record | None) -> str:
    return NONE if found is None else f"{number(found['value'])} {interval(found['ci'])}"


def _curve(lines: Mapping[str, list[tuple[int, float, list[float]]]], title: str) -> Markup:
    def draw(axes: Axes) -> None:
        for place, (model, points) in enumerate(lines.items()):
            paint = charts.COLOR[model]
            # Side by side: intervals of equal k would cover one another.
            x = [k * (1 + 0.03 * place) for k, *_ in points]
            axes.plot(x, [value for _, value, _ in points], color=paint, linewidth=1.5, marker="o", markersize=4)
            for at, (_, _, ci) in zip(x, points, strict=True):
                axes.plot([at, at], ci, color=paint, linewidth=2.2, alpha=0.45, solid_capstyle="round")
        ticks = [k for k, *_ in next(iter(lines.values()))]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.minorticks_off()
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel("k")

    return charts.svg(draw, title, (4.7, 2.05))
