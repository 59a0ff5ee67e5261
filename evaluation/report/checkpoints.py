"""Gain and tax over a training: the policies of its way, each compared with the base model item by item, and the dev set beside them.

What changes on targets is the gain, on the other benchmarks the tax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from evaluation.formats import NONE, difference, interval, number
from evaluation.paired import compare_scores, read_scores
from evaluation.records import Record, read_json
from evaluation.report import charts
from evaluation.report.inputs import ReportInputs
from evaluation.report.targets import is_target
from evaluation.statistics import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEANING = (
    "Over training: each policy against the base model on the same items, in points with 95 % intervals, which are not corrected for the "
    "number of steps. Whoever takes the best of these steps reports more than it gained: choose by the dev set (train.keep_best)."
)
_ACCURACY, _NUM_PAIRS, _MARGINS = "eval_rewards/accuracies", "eval_rewards/num_pairs", "eval_rewards/margins"
_NAMES = {"eval_accuracy": "accuracy", "eval_loss": "loss"}


class Plot(NamedTuple):
    """A chart of the report, with its title and what stands beside it."""

    title: str
    beside: str
    chart: Markup


def summarize_checkpoints(inputs: ReportInputs, train: Record | None) -> Record | None:
    """The policies of the way and the one that was taken, by step; None where none of the way was evaluated. `train` is the training's
    section of summary.json.

    Raises:
        ValueError: where a stage's file is ill-formed.
    """
    if not inputs.checkpoints or train is None:
        return None
    kept = train.get("kept")
    last = int(kept["step"] if kept else train["steps"])
    aligned = {name: folders["aligned"] for name, folders in inputs.scores.items() if {"base", "aligned"} <= folders.keys()}
    base = {name: read_scores(inputs.scores[name]["base"]) for name in aligned}
    found: dict[int, tuple[list[str], Mapping[str, Path]]] = {}
    for one in inputs.checkpoints:
        step = int(read_json(one.policy / "checkpoint.json")["step"])
        names, _ = found.setdefault(step, ([], one.scores))
        names.append(one.name)
    # The one that was taken may be one of those.
    names = found.get(last, ([], {}))[0]
    found[last] = ([*names, "policy"], aligned)
    dev = _dev(train)
    return {
        "targets": [name for name in aligned if is_target(name, inputs.recipe)],
        "points": [
            {
                "step": step,
                "names": names,
                "benchmarks": {name: _compared(base[name], folder) for name, folder in scores.items() if name in base},
            }
            for step, (names, scores) in sorted(found.items())
        ],
        "dev": dev,
        "taken": last,
        "last": train["steps"],
    }


def kept_note(train: Record | None) -> str | None:
    """Which policy was taken, its dev figure, and the last step's; None where it is the last without a choice."""
    kept = (train or {}).get("kept")
    if kept is None:
        return None
    name = _NAMES[kept["figure"]]
    stopped = ""
    if kept["last_step"] < kept["planned_steps"]:
        stopped = (
            f"; the training stopped {kept['planned_steps'] - kept['last_step']} steps early, after {kept['patience']} evaluations without "
            "a better one"
        )
    if kept["step"] == kept["last_step"]:
        return f"The policy is that of the last step, {kept['step']}: its dev {name}, {_figure(kept, 'value')}, is the best{stopped}."
    if kept["value"] == kept["last_value"]:
        return (
            f"The policy is that of step {kept['step']} of {kept['last_step']}, the first with the best dev {name}, "
            f"{_figure(kept, 'value')}, which the last step has too{stopped}."
        )
    return (
        f"The policy is that of step {kept['step']} of {kept['last_step']}, with the best dev {name}: {_figure(kept, 'value')}, where the "
        f"last step has {_figure(kept, 'last_value')}{stopped}."
    )


def checkpoint_rows(found: Record | None, label: Mapping[str, str]) -> list[dict[str, str]]:
    """A row of text for each step, or where there are fewer steps than benchmarks, for each benchmark. `label` has their names."""
    if found is None:
        return []
    names = list(found["points"][-1]["benchmarks"])
    cells = {(point["step"], name): _shown(point["benchmarks"].get(name)) for point in found["points"] for name in names}
    dev = {entry["step"]: _dev_shown(entry) for entry in found["dev"]}
    titles = {point["step"]: _step(point, found) for point in found["points"]}
    titled = {name: label.get(name, name) + (" (target)" if name in found["targets"] else "") for name in names}
    if len(titles) >= len(names):
        return [
            {"step": titles[step], **{titled[name]: cells[step, name] for name in names}}
            | ({"dev accuracy": dev.get(step, NONE)} if dev else {})
            for step in titles
        ]
    rows = [{"Δ to base": titled[name], **{f"step {titles[step]}": cells[step, name] for step in titles}} for name in names]
    if dev:
        rows.append({"Δ to base": "dev accuracy", **{f"step {titles[step]}": dev.get(step, NONE) for step in titles}})
    return rows


def plots(found: Record | None, label: Mapping[str, str]) -> list[Plot]:
    """A chart for each benchmark, targets first, and one of the dev set's accuracy."""
    if found is None:
        return []
    names = sorted(found["points"][-1]["benchmarks"], key=lambda name: name not in found["targets"])
    lines = {
        name: [(point["step"], point["benchmarks"][name]) for point in found["points"] if point["benchmarks"].get(name)]
        for name in names
    }
    drawn = []
    for name in names:
        points = [(step, entry["delta"], entry["delta_ci"]) for step, entry in lines[name] if entry["delta"] is not None]
        is_gain = name in found["targets"]
        title = f"{label.get(name, name)}: Δ to the base model over training"
        chart = _curve([(0, 0.0, None), *points], found, "gain" if is_gain else "aligned", title, zero=True)
        drawn.append(Plot(label.get(name, name), "target: gain in points" if is_gain else "other: tax in points", chart))
    # Before the first step the policy may be its own reference: no reward is above another, and there is no accuracy to show.
    dev = [entry for entry in found["dev"] if entry["step"] or entry["margin"]]
    if dev:
        points = [(entry["step"], 100 * entry["accuracy"], entry["ci"]) for entry in dev]
        chart = _curve(points, found, "base", "Dev accuracy over training", zero=False)
        without = "" if dev == found["dev"] else "; none at step 0, where all rewards are 0"
        drawn.append(Plot("dev accuracy", f"preferred above dispreferred, %{without}", chart))
    return drawn


def content(inputs: ReportInputs, summary: Record) -> Mapping[str, object] | None:
    """What the section's template shows; None where no policy of the way was evaluated."""
    found = summary["checkpoints"]
    if found is None:
        return None
    shown = names_of(summary)
    return {"rows": checkpoint_rows(found, shown), "plots": plots(found, shown), "meaning": MEANING}


def names_of(summary: Record) -> dict[str, str]:
    """The benchmarks' names as they are shown: `gsm8k (sample)` by `gsm8k`."""
    return {row["benchmark"].partition(" ")[0]: row["benchmark"] for row in summary["alignment_tax"]}


def _figure(kept: Record, which: str) -> str:
    value = kept[which]
    return f"{number(100 * value)} %" if kept["figure"] == "eval_accuracy" else number(value, 4)


def _compared(base: Mapping[str, Record], folder: Path) -> Record:
    summary = read_json(folder / "summary.json")
    kept = ("n_paired", "delta", "delta_ci", "mcnemar_p", "paired_p", "flips")
    compared = compare_scores(base, read_scores(folder))
    return {"accuracy": summary["accuracy"], "ci": summary["ci"], **{name: compared[name] for name in kept if name in compared}}


def _dev(train: Record) -> list[Record]:
    """The dev accuracy of every evaluation, with an interval where it is a share of pairs."""
    found = []
    for entry in (train.get("dev") or {}).get("evaluations", ()):
        share, pairs = entry.get(_ACCURACY), entry.get(_NUM_PAIRS)
        if share is not None:
            ci = list(wilson_interval(round(share * pairs), pairs)) if pairs else None
            margin = entry.get(_MARGINS)
            found.append({"step": entry["step"], "accuracy": share, "ci": ci, "margin": margin, "loss": entry["eval_loss"]})
    return found


def _step(point: Record, found: Record) -> str:
    return f"{point['step']} = the policy" if point["step"] == found["taken"] else str(point["step"])


def _shown(entry: Record | None) -> str:
    return NONE if entry is None else difference(entry["delta"], entry["delta_ci"])


def _dev_shown(entry: Record) -> str:
    return f"{number(100 * entry['accuracy'])} % {interval(entry['ci'])}".rstrip()


def _curve(
    points: Sequence[tuple[int, float, Sequence[float] | None]], found: Record, color: str, title: str, *, zero: bool
) -> Markup:
    """Values by step with their intervals; a line at 0, or where there is none shares in percent, and one at the step that was taken."""

    def draw(axes: Axes) -> None:
        paint = charts.COLOR[color]
        if zero:
            axes.axhline(0, color=charts.COLOR["muted"], linewidth=0.9)
        axes.axvline(found["taken"], color=charts.COLOR["muted"], linewidth=0.9, linestyle=(0, (4, 3)))
        axes.plot([step for step, *_ in points], [value for _, value, _ in points], color=paint, linewidth=1.5)
        for step, value, ci in points:
            if ci is not None:
                axes.plot([step, step], ci, color=paint, linewidth=2.2, alpha=0.45, solid_capstyle="round")
            axes.plot([step], [value], marker="o", markersize=5, color=paint)
        axes.set_xlim(-0.02 * found["last"], 1.04 * found["last"])
        axes.locator_params(axis="x", integer=True, nbins=7)
        axes.locator_params(axis="y", nbins=5)
        if not zero:
            # A share ends at 100 %; the point there is still whole.
            axes.set_ylim(top=min(axes.get_ylim()[1], 101.0))
        axes.set_xlabel("step")

    return charts.svg(draw, title, (4.7, 2.05))
