"""The rooms of the five packages and the imports between them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import grimp

PACKAGES = ("flows", "tasks", "data", "evaluation", "bnf")  # from the top floor down

Arrows = Mapping[str, frozenset[str]]  # room → the rooms that it imports


@functools.cache
def import_graph() -> grimp.ImportGraph:
    """Every import of the packages, also those inside functions and for type checkers."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def room_of(module: str) -> str:
    """A package's room: the folder below it, or the file directly in it."""
    return ".".join(module.split(".")[:2])


def rooms(package: str) -> list[str]:
    """The rooms of a package, by name."""
    return sorted(import_graph().find_children(package) - {f"{package}.__main__"})


def arrows(package: str) -> Arrows:
    """Which rooms of a package import which others of it."""
    graph, inside = import_graph(), rooms(package)
    found: dict[str, set[str]] = {room: set() for room in inside}
    for module in graph.modules:
        if room_of(module) in found:
            found[room_of(module)] |= {room_of(one) for one in graph.find_modules_directly_imported_by(module)}
    return {room: frozenset(others & set(inside) - {room}) for room, others in found.items()}


def below(room: str) -> list[str]:
    """The other packages that a room imports, from the top floor down."""
    graph = import_graph()
    modules = {room} | graph.find_descendants(room)
    used = {one.split(".")[0] for module in modules for one in graph.find_modules_directly_imported_by(module)}
    return [package for package in PACKAGES if package in used and package != room.split(".")[0]]


def floors(of: Arrows) -> list[list[str]]:
    """Rooms by floor, the ground first: a room stands above all that it imports.

    Raises:
        ValueError: rooms import each other in a circle.
    """
    left, placed, found = set(of), set[str](), list[list[str]]()
    while left:
        floor = sorted(room for room in left if of[room] <= placed)
        if not floor:
            raise ValueError(f"rooms must import one way, got a circle among {', '.join(sorted(left))}; cut it")
        found.append(floor)
        placed |= set(floor)
        left -= set(floor)
    return found


def direct(of: Arrows) -> Arrows:
    """The arrows without those that a longer way says too: of a → b → c and a → c the last is left out."""
    return {room: frozenset(others - _reached(others, of)) for room, others in of.items()}


def _reached(start: Iterable[str], of: Arrows) -> set[str]:
    reached: set[str] = set()
    waiting = [room for one in start for room in of[one]]
    while waiting:
        room = waiting.pop()
        if room not in reached:
            reached.add(room)
            waiting += of[room]
    return reached
