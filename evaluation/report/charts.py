"""The report's charts as inline SVG: no script, nothing fetched, the same bytes for the same numbers.

Colours are the page's CSS variables, so that a chart follows light and dark; its text is text, so that it can be searched.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from evaluation.formats import difference, visible
from evaluation.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib draws in these colours, which stand for variables of the page's style sheet.
_VARIABLES = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--base)",
    "#050505": "var(--aligned)",
    "#060606": "var(--preferred)",
    "#070707": "var(--dispreferred)",
    "#080808": "var(--gain)",
    "#090909": "var(--loss)",
    "#0a0a0a": "var(--ground)",
}
# What stands for each colour, by the name of its variable.
COLOR = {variable.removeprefix("var(--").removesuffix(")"): stand_in for stand_in, variable in _VARIABLES.items()}

# More points than this are averaged in bins: a chart is a few hundred pixels wide.
MAX_POINTS = 240


@dataclass(frozen=True)
class Curve:
    """One line of a chart: the metric's key in metrics.jsonl, its name in the legend and its colour in the style sheet."""

    key: str
    name: str
    color: str


class Figure(NamedTuple):
    """A chart with its title, and the lines that its legend names."""

    title: str
    chart: Markup
    lines: list[Curve]


def differences(rows: Sequence[tuple[str, float, Sequence[float] | None, str]]) -> Markup:
    """Differences with their intervals around zero; a row is (label, points, interval, "gain", "loss" or "noise").

    Label and number stand above their interval, so that it has the whole width of a narrow page too.
    """

    def draw(axes: Axes) -> None:
        ends = [0.0, *(end for _, delta, ci, _ in rows for end in (delta, *(ci or ())))]
        low, high = min(ends), max(ends)
        room = max(high - low, 2.0)
        axes.axvline(0, color=COLOR["muted"], linewidth=0.9)
        for place, (name, delta, ci, outcome) in enumerate(rows):
            color = COLOR[outcome if outcome in ("gain", "loss") else "muted"]
            if ci is not None:
                axes.plot(ci, [place, place], color=color, linewidth=2.6, solid_capstyle="round")
            axes.plot([delta], [place], marker="o", markersize=7, color=color)
            for text, side, place_of in ((visible(name), "left", 0.0), (difference(delta, ci), "right", 1.0)):
                axes.annotate(
                    text,
                    (place_of, place),
                    (0, 7),
                    ("axes fraction", "data"),
                    "offset points",
                    ha=side,
                    va="bottom",
                    fontsize=10.5,
                    color=COLOR["ink" if side == "left" or outcome not in ("gain", "loss") else outcome],
                    # The line at zero must not run through the words.
                    bbox={"facecolor": COLOR["ground"], "edgecolor": "none", "pad": 1},
                )
        axes.set_xlim(low - 0.04 * room, high + 0.04 * room)
        axes.set_ylim(len(rows) - 0.55, -0.75)
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=7)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=COLOR["line"], linewidth=0.7)
        axes.grid(axis="y", visible=False)

    return svg(draw, "Differences in points with their intervals", (4.7, 0.5 + 0.5 * len(rows)))


def curves(steps: Sequence[Record], lines: Sequence[Curve], title: str) -> Markup | None:
    """The metrics of `lines` over the training steps; None where none of them was logged."""
    points = [(line, found) for line in lines if (found := points_of(steps, line.key))]
    if not points:
        return None

    def draw(axes: Axes) -> None:
        for line, found in points:
            marker = "o" if len(found) == 1 else None
            axes.plot(*zip(*found, strict=True), color=COLOR[line.color], linewidth=1.7, marker=marker, markersize=4)
        axes.locator_params(axis="x", integer=True, nbins=7)
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel("step")

    return svg(draw, title, (4.7, 2.05))


def likelihoods(rows: Sequence[tuple[str, float, float, str]]) -> Markup:
    """From before to after, an arrow per row; a row is (label, before, after, colour)."""

    def draw(axes: Axes) -> None:
        values = [value for _, before, after, _ in rows for value in (before, after)]
        room = max(max(values) - min(values), 0.05)
        for place, (_, before, after, color) in enumerate(rows):
            arrow = {"arrowstyle": "-|>", "color": COLOR[color], "linewidth": 1.8, "shrinkA": 3, "shrinkB": 0}
            if abs(after - before) > 0.01 * room:
                axes.annotate("", (after, place), (before, place), arrowprops=arrow)
            axes.plot([before], [place], marker="o", markersize=6, color=COLOR["base"])
            rightwards = after >= before
            for value, outwards in ((before, not rightwards), (after, rightwards)):
                axes.annotate(
                    f"{value:.2f}".replace("-", "−"),
                    (value, place),
                    (9 if outwards else -9, 0),
                    "data",
                    "offset points",
                    ha="left" if outwards else "right",
                    va="center",
                    color=COLOR["ink"],
                )
        axes.set_xlim(min(values) - 0.3 * room, max(values) + 0.3 * room)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.tick_params(axis="y", length=0, labelcolor=COLOR["ink"])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=6)

    return svg(draw, "Mean log-probability before and after", (4.7, 2.05))


def histogram(edges: Sequence[float], rows: Sequence[tuple[Sequence[int], str]]) -> Markup:
    """Shares, in percent, of what falls between the edges, the outer bins being open; bins are drawn equally wide. One edge is
    0. A row is (counts, colour) and has one count more than there are edges.
    """

    def draw(axes: Axes) -> None:
        _bars(axes, rows)
        zero = edges.index(0)
        axes.axvline(zero + 1, color=COLOR["muted"], linewidth=0.9)
        # Every other edge has its number, zero among them.
        shown = range(zero % 2, len(edges), 2)
        axes.set_xticks([index + 1 for index in shown], [f"{edges[index]:g}".replace("-", "−") for index in shown])
        axes.set_xlim(0, len(edges) + 1)
        axes.grid(axis="x", visible=False)
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel("nats, after minus before")
        axes.set_ylabel("% of tokens")

    return svg(draw, "Shift of the log-probability per token", (4.7, 2.05))


def counts(edges: Sequence[float], rows: Sequence[tuple[Sequence[int], str]], title: str, unit: str) -> Markup:
    """Shares, in percent, of what lies from each edge up to the next; bins are drawn equally wide. A row is (counts, colour)."""

    def draw(axes: Axes) -> None:
        _bars(axes, rows)
        axes.set_xticks(range(0, len(edges), 2), [f"{edge:g}" for edge in edges[::2]])
        axes.set_xlim(0, len(edges) - 1)
        axes.grid(axis="x", visible=False)
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel(unit)
        axes.set_ylabel("%")

    return svg(draw, title, (4.7, 2.05))


def _bars(axes: Axes, rows: Sequence[tuple[Sequence[int], str]]) -> None:
    """Each row's shares in percent, the rows side by side in every bin."""
    width = 0.84 / len(rows)
    for place, (counts, color) in enumerate(rows):
        total = max(sum(counts), 1)
        lefts = [index + 0.08 + place * width for index in range(len(counts))]
        shares = [100 * count / total for count in counts]
        axes.bar(lefts, shares, width, align="edge", color=COLOR[color], linewidth=0)


def points_of(steps: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """(step, value) where the metric is a finite number; averaged in bins of steps where they are too many."""
    found = [
        (float(step["step"]), float(step[key]))
        for step in steps
        if isinstance(step.get(key), int | float) and math.isfinite(step[key])
    ]
    size = math.ceil(len(found) / MAX_POINTS)
    bins = [found[start : start + size] for start in range(0, len(found), max(size, 1))]
    return [(math.fsum(x for x, _ in part) / len(part), math.fsum(y for _, y in part) / len(part)) for part in bins]


def svg(draw: Callable[[Axes], None], title: str, size_in: tuple[float, float]) -> Markup:
    """What `draw` draws into axes, as an SVG element with this title; `size_in` is its width and height in inches. Its colours are those of
    `COLOR`.
    """
    import matplotlib
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Record = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "text.parse_math": False,
        "axes.unicode_minus": True,
        "font.size": 9,
        "text.color": COLOR["ink"],
        "axes.labelcolor": COLOR["muted"],
        "axes.edgecolor": COLOR["muted"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": COLOR["line"],
        "grid.linewidth": 0.7,
        "xtick.color": COLOR["muted"],
        "ytick.color": COLOR["muted"],
        "xtick.major.size": 2.5,
        "ytick.major.size": 0,
        "legend.frameon": False,
    }
    # The user's matplotlibrc changes nothing.
    with matplotlib.rc_context(), style.context(settings, after_reset=True):
        figure = Figure(figsize=size_in, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return Markup(_inline(buffer.getvalue(), title))


def _inline(svg: str, title: str) -> str:
    """A stand-alone SVG file as an element of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # Groups are named axes_1 and so on in every chart; nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    # The page's font, whatever it is, at matplotlib's size.
    svg = re.sub(r"font: (?:\w+ )?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    opening = re.sub(r' (?:width|height|version)="[^"]*"', "", svg[: svg.index(">")])
    name = str(Markup.escape(visible(title)))
    rest = re.sub(r"\n\s*", "\n", svg[svg.index(">") :])
    return f'{opening} role="img" aria-label="{name}"{rest}'
