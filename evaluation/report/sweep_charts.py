"""A sweep's charts: gain against tax, and what each setting's training did to the likelihood of preferred and dispreferred completions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from evaluation.formats import visible
from evaluation.records import Record, read_records
from evaluation.report import charts
from evaluation.report.swept import SweptRun
from evaluation.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# BNF has the colour of the aligned model everywhere; the others take these in their order, with a marker of their own: colour alone tells
# nothing to some readers, and on paper. From the eighth on colours come again, with hollow markers, and then with numbers for markers.
NUM_COLORS = 7
_STAND_INS = {f"#0b0b{number:02x}": f"var(--series-{number})" for number in range(1, NUM_COLORS + 1)}
_MARKERS = "osD^vPX*"
# The most settings whose points are told apart by markers alone, beside BNF: each marker but BNF's is filled, and then hollow.
_MOST_MARKERS = 2 * (len(_MARKERS) - 1)
# The metrics of preferred and dispreferred completions, in the log of dev sets and of training.
_SIDES = (("chosen", "preferred"), ("rejected", "dispreferred"))
# Above so many times the smallest range of a setting, the axis of all is logarithmic beyond that range.
_TOO_FAR = 8.0


class Place(NamedTuple):
    """A setting in the plot of gain against tax: both in points with their intervals; `number` is 0 for BNF, or from 1 in the
    order of the sweep.
    """

    name: str
    gain: float
    gain_ci: Interval | None
    tax: float
    tax_ci: Interval | None
    number: int


class Shift(NamedTuple):
    """How the log-probability per token of completions moved over a training, in nats: of each side the seeds' lines, as (step, shift)."""

    name: str
    lines: Mapping[str, Sequence[Sequence[tuple[float, float]]]]


def pareto(places: Sequence[Place]) -> Markup:
    """Gain on the targets against Δ on the other benchmarks, with intervals; a dashed line joins those that none surpasses in both."""

    def draw(axes: Axes) -> None:
        muted = charts.COLOR["muted"]
        axes.axhline(0, color=muted, linewidth=0.9)
        axes.axvline(0, color=muted, linewidth=0.9)
        front = _front(places)
        axes.plot([one.gain for one in front], [one.tax for one in front], color=muted, linewidth=1, linestyle=(0, (4, 3)))
        for one in places:
            for ci, line in (
                (one.gain_ci, lambda ends, y=one.tax: (ends, [y, y])),
                (one.tax_ci, lambda ends, x=one.gain: ([x, x], ends)),
            ):
                if ci is not None:
                    axes.plot(*line(list(ci)), color=color_of(one.number), linewidth=1.6, alpha=0.4, solid_capstyle="round")
        for one in places:
            axes.plot([one.gain], [one.tax], color=color_of(one.number), linestyle="none", **marker(one.number))
        ends = [value for one in places for value in (one.gain, 0.0, *(one.gain_ci or ()))]
        sides = [value for one in places for value in (one.tax, 0.0, *(one.tax_ci or ()))]
        for values, limit in ((ends, axes.set_xlim), (sides, axes.set_ylim)):
            room = max(max(values) - min(values), 2.0)
            limit(min(values) - 0.06 * room, max(values) + 0.06 * room)
        _label(axes, places)
        axes.set_xlabel("gain: Δ on the targets, points")
        axes.set_ylabel("tax: Δ on the others, points")
        axes.locator_params(nbins=7)

    return svg(draw, "Gain against tax", (4.7, 3.3))


def shifts_of(name: str, runs: Sequence[SweptRun]) -> Shift | None:
    """From the logs of the runs' trainings: of their dev sets, or else of the batches they trained on; None without either."""
    logs = [list(read_records(run.train / "metrics.jsonl")) for run in runs if run.train is not None]
    for prefix, relative in (("eval_logps/", True), ("logps_shift/", False), ("logps/", True)):
        lines = {color: [line for log in logs if (line := _line(log, prefix + side, relative))] for side, color in _SIDES}
        if any(lines.values()):
            return Shift(name, lines)
    return None


def shift_charts(shifts: Sequence[Shift]) -> list[tuple[str, Markup]]:
    """A chart for each setting on axes that all share: the mean over seeds, and each seed as a thin line. Where the mean ends before some
    seeds do, the chart's name says so.
    """
    if not shifts:
        return []
    values = {one.name: [y for lines in one.lines.values() for line in lines for _, y in line] for one in shifts}
    low, high = min(min(found) for found in values.values()), max(max(found) for found in values.values())
    ranges = [max(map(abs, found)) for found in values.values()]
    smallest = max(min(ranges), 1e-3)
    last = max(line[-1][0] for one in shifts for lines in one.lines.values() for line in lines)
    is_far = max(ranges) > _TOO_FAR * smallest

    def chart(one: Shift) -> Markup:
        from matplotlib.ticker import FixedLocator

        def draw(axes: Axes) -> None:
            axes.axhline(0, color=charts.COLOR["muted"], linewidth=0.9)
            for color, lines in one.lines.items():
                paint = charts.COLOR[color]
                for line in lines:
                    axes.plot(*zip(*line, strict=True), color=paint, linewidth=0.8, alpha=0.45)
                axes.plot(*zip(*_mean_line(lines), strict=True), color=paint, linewidth=2)
            if is_far:
                axes.set_yscale("symlog", linthresh=smallest)
                axes.yaxis.set_major_locator(FixedLocator(_decades(smallest, max(ranges))))
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
            room = 0.3 * max(abs(low), abs(high)) if is_far else 0.06 * (high - low) + 1e-3
            axes.set_ylim(low - room, high + room)
            axes.set_xlim(0, last)
            axes.locator_params(axis="x", integer=True, nbins=7)
            axes.set_xlabel("step")
            axes.set_ylabel("nats per token")

        return svg(draw, f"Likelihood shift of {one.name}", (4.7, 2.05))

    return [(one.name + _where_mean_ends(one), chart(one)) for one in shifts]


def _where_mean_ends(one: Shift) -> str:
    """`; the mean ends at step 40, as one of 3 seeds does`; empty where all seeds go equally far."""
    said = []
    for lines in one.lines.values():
        last = [line[-1][0] for line in lines]
        if not lines or min(last) == max(last):
            continue
        mean = _mean_line(lines)
        short = sum(end < max(last) for end in last)
        if _is_of_all(lines):
            said.append(f"; the mean ends at step {mean[-1][0]:g}, as {short} of {len(lines)} seeds end early")
        else:
            said.append(f"; no step has all {len(lines)} seeds, and the mean is of those that have it")
    # Both sides are logged at the same steps.
    return said[0] if said else ""


def _is_of_all(lines: Sequence[Sequence[tuple[float, float]]]) -> bool:
    """Whether there are steps that all lines have."""
    return bool(set.intersection(*({step for step, _ in line} for line in lines)))


def marker_path(number: int, x: float, y: float, size: float) -> tuple[str, bool]:
    """A setting's marker around (x, y) as the path of an SVG file, and whether it is hollow."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path

    look = marker(number)
    style = MarkerStyle(look["marker"])
    path = style.get_path().transformed(style.get_transform())
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
    # Of the file y grows downwards. A closing has a point that means nothing.
    parts = [
        letters[code]
        + (
            ""
            if code == Path.CLOSEPOLY
            else " ".join(f"{x + size * a:.2f} {y - size * b:.2f}" for a, b in points.reshape(-1, 2))
        )
        for points, code in path.iter_segments(simplify=False)
        if code in letters
    ]
    return "".join(parts), "markerfacecolor" in look


def _decades(least: float, most: float) -> list[float]:
    """0, and the powers of ten between the two on both sides of it."""
    found = [10.0**power for power in range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1)]
    return [*(-value for value in reversed(found)), 0.0, *found]


def _line(log: Sequence[Record], key: str, relative: bool) -> list[tuple[float, float]]:
    points = charts.points_of([record for record in log if "step" in record], key)
    start = points[0][1] if points and relative else 0.0
    return [(step, value - start) for step, value in points]


def _mean_line(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over seeds at every step that all have; without such steps, as after an early stop, what there is."""
    by_step: dict[float, list[float]] = {}
    for line in lines:
        for step, value in line:
            by_step.setdefault(step, []).append(value)
    shared = {step: found for step, found in by_step.items() if len(found) == len(lines)} or by_step
    return [(step, math.fsum(found) / len(found)) for step, found in sorted(shared.items())]


def _front(places: Sequence[Place]) -> list[Place]:
    """Those that no other surpasses in gain and tax, by gain."""
    kept = [
        one
        for one in places
        if not any(
            other.gain >= one.gain and other.tax >= one.tax and (other.gain, other.tax) != (one.gain, one.tax)
            for other in places
        )
    ]
    return sorted(kept, key=lambda one: one.gain)


def _label(axes: Axes, places: Sequence[Place]) -> None:
    """Every setting's name beside its point, where it covers no other point or name."""
    width, height = (72 * side for side in (3.9, 2.75))  # of the plot, in typographic points, as nearly as is needed
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    at = [(width * (one.gain - left) / (right - left), height * (one.tax - bottom) / (top - bottom)) for one in places]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    for one, (x, y) in zip(places, at, strict=True):
        name = visible(one.name)
        long = 5.4 * len(name)
        near = [
            (dx, dy)
            for far in (1, 2, 3, 4)
            for dx, dy in ((8, 6 * far), (8, -10 * far), (-8 - long, 6 * far), (-8 - long, -10 * far))
        ]
        boxes = [(x + dx, y + dy, x + dx + long, y + dy + 10) for dx, dy in near]
        inside = [box for box in boxes if box[0] > 0 and box[2] < width and box[1] > 0 and box[3] < height] or boxes
        free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
        box = (free or inside)[0]
        taken.append(box)
        ground = {"facecolor": charts.COLOR["ground"], "edgecolor": "none", "pad": 0.5, "alpha": 0.85}
        axes.annotate(
            name,
            (one.gain, one.tax),
            (box[0] - x, box[1] - y),
            "data",
            "offset points",
            fontsize=9.5,
            color=color_of(one.number),
            bbox=ground,
        )


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def marker(number: int) -> Record:
    """How a setting's point is drawn. No two settings have the same marker, whatever their colours."""
    if not number:
        return {"marker": _MARKERS[0], "markersize": 7.5}
    if number > _MOST_MARKERS:
        return {"marker": f"${number}$", "markersize": 10, "markeredgewidth": 0.3}
    place = (number - 1) % (len(_MARKERS) - 1)
    hollow = {"markerfacecolor": charts.COLOR["ground"], "markeredgewidth": 1.4} if number >= len(_MARKERS) else {}
    return {"marker": _MARKERS[1 + place], "markersize": 7.5, **hollow}


def color_of(number: int) -> str:
    return list(_STAND_INS)[(number - 1) % NUM_COLORS] if number else charts.COLOR["aligned"]


def svg(draw: Callable[[Axes], None], title: str, size_in: tuple[float, float]) -> Markup:
    drawn = str(charts.svg(draw, visible(title), size_in))
    for stand_in, variable in _STAND_INS.items():
        drawn = drawn.replace(stand_in, variable)
    return Markup(drawn)
