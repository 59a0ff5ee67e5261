"""Settings chosen on the dev set: what a sweep with `select` compares, and which it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnf.training.choosing import FIGURES
from evaluation.report.swept import Candidate, Choice
from flows.dag.on_policy import data_nodes
from flows.dag.points import Point, distinct_words, in_words
from flows.errors import RecipeError
from flows.recipe.sweep_file import SEED, Select


def contests(points: Sequence[Point], over: Sequence[str]) -> dict[str, list[Point]]:
    """The runs whose settings are compared with one another, by name: those of one objective that are alike on all axes but `over` and
    the seed.
    """
    # What all runs have alike names none of them.
    differ = [key for key in points[0].settings if len({repr(point.settings[key]) for point in points}) > 1]
    others = [{key: point.settings[key] for key in differ if key != SEED and key not in over} for point in points]
    found: dict[tuple[str, str], list[Point]] = {}
    for point, rest in zip(points, distinct_words(others), strict=True):
        found.setdefault((str(point.objective), rest), []).append(point)
    # Where the other axes tell all of them apart, they are name enough.
    names = [rest for _, rest in found]
    enough = "" not in names and len(set(names)) == len(names)
    return {rest if enough else f"{objective} {rest}".strip(): those for (objective, rest), those in found.items()}


def check_choice(select: Select, points: Sequence[Point], works: Sequence[Mapping[str, str]]) -> None:
    """Refuse a choice between runs that have no dev set, or not the same.

    Args:
        works: what each run computes, as `work_of` gives it.

    Raises:
        RecipeError: naming the settings.
    """
    for point in points:
        if point.recipe.train is None or not point.recipe.prepare.dev_fraction:
            raise RecipeError(
                f"select must have a dev set to choose on, got prepare.dev_fraction {point.recipe.prepare.dev_fraction:g} with "
                f"{in_words(point.settings)}; set it in the base, such as 0.1, or leave select out"
            )
    work = {point.recipe.name: nodes for point, nodes in zip(points, works, strict=True)}
    for those in contests(points, select.over).values():
        dev_sets: dict[int, Point] = {}
        for point in those:
            first = dev_sets.setdefault(point.recipe.seed, point)
            ours, others = (work[one.recipe.name][data_nodes(one.recipe)[0]] for one in (point, first))
            if ours != others:
                raise RecipeError(
                    f"select.over must leave the dev set as it is, got other data with {in_words(point.settings)} than with "
                    f"{in_words(first.settings)}; choose over keys of train"
                )


def choose(select: Select, points: Sequence[Point], values: Mapping[str, float]) -> list[Choice]:
    """The settings that are best on the dev set in the mean of all seeds, for each contest; of equals the first of the sweep's file.

    Settings count that have a value for every seed. A contest without any is left out.

    Args:
        values: the dev figure of each run that has one, by the name of its recipe.
    """
    sign = -1.0 if FIGURES[select.by].greater_is_better else 1.0
    choices = []
    for name, those in contests(points, select.over).items():
        by_settings: dict[str, list[Point]] = {}
        for point in those:
            by_settings.setdefault(repr(_of(point, select.over)), []).append(point)
        candidates = []
        for seeds in by_settings.values():
            found = {point.recipe.seed: values[point.recipe.name] for point in seeds if point.recipe.name in values}
            if len(found) == len(seeds):
                candidates.append(Candidate(_of(seeds[0], select.over), found, sum(found.values()) / len(found)))
        if candidates:
            candidates.sort(key=lambda one: sign * one.mean)
            choices.append(Choice(name, candidates[0].settings, candidates))
    return choices


def chosen_points(select: Select, points: Sequence[Point], choices: Sequence[Choice]) -> list[Point]:
    """The runs that have chosen settings, every seed of them."""
    taken = {choice.name: choice.settings for choice in choices}
    found = contests(points, select.over)
    return [
        point for name, those in found.items() if name in taken for point in those if _of(point, select.over) == taken[name]
    ]


def how_chosen(select: Select, choices: Sequence[Choice]) -> str:
    """How the settings were chosen, in words; also whether all were chosen among equally many."""
    numbers = {choice.name: len(choice.candidates) for choice in choices}
    extreme = "highest" if FIGURES[select.by].greater_is_better else "lowest"
    among = f"each among {len(choices[0].candidates)} settings" if choices else "no settings had a value for every seed"
    if len(set(numbers.values())) > 1:
        said = ", ".join(f"{name} among {number}" for name, number in numbers.items())
        among = f"not all among equally many settings, so they were not tuned alike: {said}"
    return (
        f"the {', '.join(select.over)} with the {extreme} {select.by} on the dev set in the mean of all seeds, before anything else was "
        f"evaluated; {among}"
    )


def _of(point: Point, keys: Sequence[str]) -> dict[str, object]:
    return {key: point.settings[key] for key in keys}
