"""A study's figure as an SVG file of its own: the report's charts below one another, as narrow as a phone and readable there."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup, escape

from evaluation.formats import visible
from evaluation.report import charts, sweep_charts
from evaluation.report.study_facts import Column
from evaluation.report.study_results import Cell, StudyResults, StudyRow
from evaluation.report.sweep_results import REFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TEMPLATES = Path(__file__).parent / "templates"
_SIZE_IN = (4.7, 1.75)
# Of the file, where a page has room for it; a narrower page shrinks it.
_WIDTH_PX = 560
# Points: a line of a title or a legend, and the room above a title.
_LINE, _ABOVE = 14.0, 12.0
# Values nearer to one another than this share of the axis are drawn at equal distances.
_LEAST_GAP = 0.05
# The widest character of a legend, and the mark before each name.
_CHARACTER, _MARK = 5.6, 16.0
# And of a title, which is larger and bold; the mean of its characters is narrower.
_TITLE_CHARACTER = 6.0


class _Series(NamedTuple):
    """The settings that differ in the axis alone, with the number of their colour."""

    name: str
    rows: Sequence[StudyRow]
    color: int


class _Panel(NamedTuple):
    """A chart with its title; `legend` has (name, colour of the style sheet, number of the marker where points have one)."""

    title: str
    chart: Markup
    legend: Sequence[tuple[str, str, int | None]] = ()


def figure(results: StudyResults) -> str | None:
    """The SVG file's text; None where there is nothing to draw."""
    panels = [*(_over_axis(results) if results.axis is not None else _by_setting(results)), *_likelihoods(results)]
    return _stacked(panels) if panels else None


def _over_axis(results: StudyResults) -> Iterator[_Panel]:
    """Each column against the axis, a line for each other setting."""
    axis = str(results.axis)
    series = _series(results)
    legend = [(one.name, _variable(one.color), one.color) for one in series] if len(series) > 1 else []
    for column in results.columns:
        if column.key == "grad_norm_max" or not any(column.key in row.cells for row in results.rows):
            continue
        yield _Panel(column.title + (", % of seeds" if column.key == "collapsed" else ""), _lines(series, column, axis), legend)
        # Said once, above the first.
        legend = []


def _series(results: StudyResults) -> list[_Series]:
    by_name: dict[str, list[StudyRow]] = {}
    varied = [
        key
        for key in dict.fromkeys(key for row in results.rows for key in row.settings)
        if key != results.axis and len({repr(row.settings.get(key)) for row in results.rows}) > 1
    ]
    for row in results.rows:
        by_name.setdefault(", ".join(_said(key, row.settings.get(key)) for key in varied), []).append(row)
    names = list(by_name)
    own = next((name for name in names if name == REFERENCE), None)
    others = [name for name in names if name != own]
    return [
        _Series(name, rows, 0 if name == own or len(names) == 1 else 1 + others.index(name)) for name, rows in by_name.items()
    ]


def _said(key: str, value: object) -> str:
    """A setting in words: a number says nothing without its key."""
    return value if isinstance(value, str) else f"{key.rsplit('.', 1)[-1]} {value}"


def _lines(series: Sequence[_Series], column: Column, axis: str) -> Markup:
    values = sorted({_number(row, axis) for one in series for row in one.rows})
    span = values[-1] - values[0]
    is_even = bool(span) and min(b - a for a, b in pairwise(values)) < _LEAST_GAP * span
    places = {value: float(number) if is_even else value for number, value in enumerate(values)}
    room = (len(values) - 1 if is_even else span) or 1.0

    def draw(axes: Axes) -> None:
        if column.is_signed:
            axes.axhline(0, color=charts.COLOR["muted"], linewidth=0.9)
        for number, one in enumerate(series):
            # Side by side, so that no interval hides another.
            aside = 0.02 * room * (number - (len(series) - 1) / 2)
            points = [(places[_number(row, axis)] + aside, cell) for row in one.rows if (cell := row.cells.get(column.key))]
            color = sweep_charts.color_of(one.color)
            for x, cell in points:
                if cell.ci is not None:
                    axes.plot([x, x], list(cell.ci), color=color, linewidth=1.6, alpha=0.45, solid_capstyle="round")
            look = {**sweep_charts.marker(one.color), "markersize": 5}
            axes.plot([x for x, _ in points], [cell.mean for _, cell in points], color=color, linewidth=1.4, **look)
        if column.key == "collapsed":
            axes.set_ylim(-5, 105)
        axes.set_xlim(min(places.values()) - 0.05 * room, max(places.values()) + 0.05 * room)
        axes.set_xticks(list(places.values()), [f"{value:g}" for value in places])
        axes.grid(axis="x", visible=False)
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel(axis.rsplit(".", 1)[-1] + (" (not to scale)" if is_even else ""))

    return sweep_charts.svg(draw, f"{column.title} against {axis}", _SIZE_IN)


def _number(row: StudyRow, axis: str) -> float:
    value = row.settings[axis]
    assert isinstance(value, int | float), "an axis of numbers"
    return float(value)


def _by_setting(results: StudyResults) -> Iterator[_Panel]:
    """Gain and tax of each setting with their intervals."""
    for column in results.columns:
        found: list[tuple[StudyRow, Cell]] = [(row, cell) for row in results.rows if (cell := row.cells.get(column.key))]
        if column.key in ("gain", "tax") and found:
            rows = [(row.title, cell.mean, cell.ci, "noise") for row, cell in found]
            yield _Panel(f"{column.title}: aligned minus base", charts.differences(rows))


def _likelihoods(results: StudyResults) -> Iterator[_Panel]:
    legend: list[tuple[str, str, int | None]] = [(side, f"var(--{side})", None) for side in ("preferred", "dispreferred")]
    for name, chart in sweep_charts.shift_charts(results.shifts):
        yield _Panel(f"Likelihood over training, {name}", chart, legend)
        legend = []


def _variable(color: int) -> str:
    return f"var(--series-{(color - 1) % sweep_charts.NUM_COLORS + 1})" if color else "var(--aligned)"


def _stacked(panels: Sequence[_Panel]) -> str:
    """The panels below one another on a ground of their own: a page's may be dark, and the file doesn't see it."""
    width, y, parts = 0.0, 0.0, []
    for panel in panels:
        size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', panel.chart)
        assert size is not None, "a chart has a viewBox"
        wide, high = (float(side) for side in size.groups())
        width = max(width, wide)
        y += _ABOVE
        for line in textwrap.wrap(visible(panel.title), int((wide - 4) / _TITLE_CHARACTER), break_long_words=True):
            y += _LINE
            parts.append(
                f'<text x="4" y="{y - 4:g}" font-size="10.5" font-weight="600" fill="var(--ink)">{_shown(line)}</text>'
            )
        marks, y = _legend(panel.legend, y, wide)
        parts += marks
        parts.append(str(panel.chart).replace("<svg", f'<svg x="0" y="{y:g}" width="{wide:g}" height="{high:g}"', 1))
        y += high
    height = y + _ABOVE
    colors = "".join(_light(name) for name in ("report.css", "sweep.css"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{_WIDTH_PX}" '
        f'height="{_WIDTH_PX * height / width:.0f}" font-family="system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, sans-serif">\n'
        f'<style>svg {{{colors}}}</style>\n<rect width="100%" height="100%" fill="var(--ground)"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _legend(names: Sequence[tuple[str, str, int | None]], y: float, width: float) -> tuple[list[str], float]:
    """The legend's marks and names in as many lines as they need, and where it ends."""
    parts, x = [], 4.0
    for name, color, number in names:
        long = _MARK + _CHARACTER * len(visible(name))
        if x + long > width and x > 4:
            x, y = 4.0, y + _LINE
        if number is None:
            parts.append(f'<rect x="{x:g}" y="{y + 2:g}" width="9" height="9" rx="2" style="fill: {color}"/>')
        else:
            path, is_hollow = sweep_charts.marker_path(number, x + 5, y + 6.5, 6)
            fill = "var(--ground)" if is_hollow else color
            parts.append(f'<path class="marker" d="{path}" style="fill: {fill}; stroke: {color}; stroke-width: 0.8"/>')
        parts.append(f'<text x="{x + 13:g}" y="{y + 10:g}" font-size="9.5" fill="var(--ink)">{_shown(name)}</text>')
        x += long + 8
    return parts, y + (_LINE if names else 0)


def _shown(text: str) -> str:
    return str(escape(visible(text)))


def _light(file: str) -> str:
    """The style sheet's colours on a light ground."""
    found = re.search(r":root \{(.*?)\}", (_TEMPLATES / file).read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, "a style sheet begins with its colours"
    return " ".join(found[1].split())
