"""Draws docs/images/rooms.svg, the picture of docs/architecture.md: `python -m tests.structure.picture`. A test compares the two.

A package is a band, a room a box, and a room stands above all that it imports in its package. An arrow that a longer way says too is left
out. Below a room's name are the other packages that it imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from bnf.process import ROOT
from tests.structure.rooms import PACKAGES, Arrows, arrows, below, direct, floors

PATH = ROOT / "docs" / "images" / "rooms.svg"

WIDTH, MARGIN = 1010, 16
BOX_WIDTH, BOX_HEIGHT, GAP = 146, 42, 18
FLOOR_HEIGHT, HEADING = 66, 34
COLOURS = {"flows": "#dbe7f7", "tasks": "#e0f0e4", "data": "#fbeed3", "evaluation": "#f5dfdf", "bnf": "#e6e0f2"}

Place = tuple[float, float]  # the middle of a box's upper edge


def draw() -> str:
    """The whole picture as SVG."""
    parts: list[str] = []
    top = MARGIN
    for package in PACKAGES:
        band, height = _band(package, top)
        parts += band
        top += height + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" font-family="Helvetica, Arial, sans-serif">\n'
        "<title>The rooms of the code, and which imports which</title>\n"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _band(package: str, top: float) -> tuple[list[str], float]:
    """A package's band from `top` on, and its height."""
    between = arrows(package)
    rows = [part for row in _ordered([*reversed(floors(between))], between) for part in _fitting(row)]
    height = HEADING + FLOOR_HEIGHT * len(rows)
    places = {}
    for number, row in enumerate(rows):
        left = (WIDTH - len(row) * BOX_WIDTH - (len(row) - 1) * GAP) / 2
        for column, room in enumerate(row):
            places[room] = (left + column * (BOX_WIDTH + GAP) + BOX_WIDTH / 2, top + HEADING + number * FLOOR_HEIGHT)
    drawn = [
        f'<rect x="{MARGIN / 2}" y="{top}" width="{WIDTH - MARGIN}" height="{height}" rx="8" fill="{COLOURS[package]}"/>',
        f'<text x="{MARGIN}" y="{top + 26}" font-size="20" font-weight="bold" fill="#222">{package}/</text>',
    ]
    for room, others in sorted(direct(between).items()):
        drawn += [_arrow(places[room], places[other]) for other in sorted(others)]
    return [*drawn, *(_box(room, places[room]) for row in rows for room in row)], height


def _ordered(rows: Sequence[list[str]], between: Arrows) -> list[list[str]]:
    """Rows in which a room stands below those that import it, as far as that goes."""
    ordered: list[list[str]] = []
    where: dict[str, float] = {}
    for row in rows:
        importers = {room: [where[one] for one in where if room in between[one]] for room in row}
        middle = {room: sum(found) / len(found) if found else 0.5 for room, found in importers.items()}
        ordered.append(sorted(row, key=lambda room: (middle[room], room)))
        where |= {room: (column + 0.5) / len(row) for column, room in enumerate(ordered[-1])}
    return ordered


def _fitting(row: list[str]) -> list[list[str]]:
    """The row in parts, as even as can be, that the picture is wide enough for."""
    most = (WIDTH - 2 * MARGIN + GAP) // (BOX_WIDTH + GAP)
    number = -(-len(row) // most)
    bounds = [len(row) * part // number for part in range(number + 1)]
    return [row[first:last] for first, last in pairwise(bounds)]


def _arrow(start: Place, end: Place) -> str:
    (x, y), (to_x, to_y) = (start[0], start[1] + BOX_HEIGHT), end
    bend = (to_y - y) / 2
    return (
        f'<path d="M{x:.0f},{y:.0f} C{x:.0f},{y + bend:.0f} {to_x:.0f},{to_y - bend:.0f} {to_x:.0f},{to_y:.0f}" '
        'fill="none" stroke="#555" stroke-width="1.2" marker-end="url(#head)"/>'
    )


def _box(room: str, place: Place) -> str:
    x, y = place
    name = room.split(".")[1]
    folder = (ROOT / room.replace(".", "/")).is_dir()
    others, middle = ", ".join(below(room)), 'text-anchor="middle"'
    title = escape(name) + ("/" if folder else "")
    return (
        f'<g><rect x="{x - BOX_WIDTH / 2:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" fill="#fff" stroke="#777"/>'
        f'<text x="{x:.0f}" y="{y + (18 if others else 26):.0f}" font-size="15" {middle} fill="#111">{title}</text>'
        f'<text x="{x:.0f}" y="{y + 34:.0f}" font-size="11" {middle} fill="#555">{escape(others)}</text></g>'
    )


if __name__ == "__main__":
    PATH.write_text(draw(), encoding="utf-8")
    print(PATH)
