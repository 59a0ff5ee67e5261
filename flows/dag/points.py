"""The runs of a sweep: each point of its axes as a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flows.errors import RecipeError
from flows.recipe.config import Recipe, make_recipe, read_values
from flows.recipe.keys import changed_keys, dotted
from flows.recipe.overrides import apply_overrides
from flows.recipe.sweep_file import SEED, Sweep, as_override
from flows.runs.naming import changes, parts

_LONGEST_NAME = 100


@dataclass(frozen=True)
class Point:
    """A run of a sweep before it is run.

    Attributes:
        settings: its value on each axis.
        label: these in words without the seed; runs of one label differ in their seed alone.
        recipe: what is run; its name is the sweep's with the settings.
        changed: the recipe keys that it sets otherwise than the base.
    """

    settings: Mapping[str, object]
    label: str
    recipe: Recipe
    changed: Mapping[str, object]

    @property
    def objective(self) -> str | None:
        return self.recipe.train_config().objective if self.recipe.train is not None else None


# How many of how many are looked at, and what.
Tell = Callable[[int, int, str], None]


def make_points(sweep: Sweep, tell: Tell = lambda done, total, what: None) -> list[Point]:
    """The runs of a sweep in the order of its axes; `tell` is called after each.

    Raises:
        RecipeError: the recipe refuses some of them, with the settings that these have in common; or two are the same run.
    """
    grid = sweep.grid()
    values = read_values(sweep.base, str(sweep.base))
    values = {"name": sweep.name, **{key: value for key, value in values.items() if key != "name"}}
    try:
        base: Recipe | None = make_recipe(values, beside=sweep.base.parent)
    except RecipeError:
        # It may be no recipe without what the axes set.
        base = None
    points: list[Point] = []
    refused: dict[str, list[Mapping[str, object]]] = {}
    for number, (settings, name, label) in enumerate(zip(grid, _names(sweep, grid), _labels(sweep, grid), strict=True), 1):
        tell(number, len(grid), "recipes checked")
        words = [*sweep.overrides, *(as_override(key, value) for key, value in sweep.settings_of(settings).items())]
        try:
            recipe = make_recipe({**values, "name": name}, words, beside=sweep.base.parent)
        except RecipeError as error:
            refused.setdefault(str(error), []).append(settings)
            continue
        changed = dotted(apply_overrides({}, words)) if base is None else changed_keys(recipe, base)
        points.append(Point(settings, label, recipe, {**changed, "name": name}))
    if refused:
        raise RecipeError("\n".join(f"{_which(found, grid)}: {message}" for message, found in refused.items()))
    _refuse_same(points)
    return points


def in_words(settings: Mapping[str, object]) -> str:
    """Settings as a person would write them: `train.objective=dpo seed=0`."""
    return changes(settings)


def distinct_words(several: Sequence[Mapping[str, object]]) -> list[str]:
    """Words for each of these settings, other words for other settings: short ones where these tell them apart, or else whole ones, or
    else numbers behind these. Lists have no short words, and of a path both are its end.
    """
    numbers = {said: number for number, said in enumerate(dict.fromkeys(map(repr, several)), 1)}
    short, whole = [" ".join(parts(settings)) for settings in several], [in_words(settings) for settings in several]
    for words in (short, whole):
        if len(set(words)) == len(numbers):
            return words
    return [f"{words} ({numbers[repr(settings)]})" for words, settings in zip(whole, several, strict=True)]


def _names(sweep: Sweep, grid: Sequence[Mapping[str, object]]) -> list[str]:
    """The runs' names: the sweep's, and the settings in which the runs differ. Where these don't fit into a name, or give several runs
    one, they are numbers.
    """
    names = ["-".join([sweep.name, *parts(_differing(sweep, settings))]) for settings in grid]
    if len(set(names)) == len(names) and max(map(len, names)) <= _LONGEST_NAME:
        return names
    digits = len(str(len(grid)))
    return [f"{sweep.name[: _LONGEST_NAME - digits - 1]}-{number:0{digits}}" for number in range(1, len(grid) + 1)]


def _labels(sweep: Sweep, grid: Sequence[Mapping[str, object]]) -> list[str]:
    differing = [{key: value for key, value in _differing(sweep, settings).items() if key != SEED} for settings in grid]
    return [words or sweep.name for words in distinct_words(differing)]


def _differing(sweep: Sweep, settings: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in settings.items() if len(sweep.axes[key]) > 1}


def _which(found: Sequence[Mapping[str, object]], grid: Sequence[Mapping[str, object]]) -> str:
    """Which runs of the grid these are: by the one setting that they alone have, or else by all that they have in common."""
    if len(found) == len(grid):
        return f"all {len(grid)} runs of the sweep" if len(grid) > 1 else "the run of the sweep"
    common = {key: value for key, value in found[0].items() if all(one[key] == value for one in found)}
    alone = [key for key, value in common.items() if sum(one[key] == value for one in grid) == len(found)]
    shown = {alone[0]: common[alone[0]]} if alone else common or found[0]
    among = "" if common else ", among others"
    return f"{len(found)} of {len(grid)} runs of the sweep, with {in_words(shown)}{among}"


def _refuse_same(points: Sequence[Point]) -> None:
    known: dict[str, Point] = {}
    for point in points:
        made = repr(point.recipe.model_dump(exclude={"name"}))
        if made in known:
            raise RecipeError(
                f"sweep must have runs that differ, got the same recipe with {in_words(known[made].settings)} and with "
                f"{in_words(point.settings)}; remove one"
            )
        known[made] = point
