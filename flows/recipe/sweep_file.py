"""A sweep's file: a recipe, the axes along which its runs differ, and how settings are chosen on the dev set (docs/sweeps.md)."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from bnf.paths import person_path
from bnf.urls import settings_without_secrets
from flows.errors import RecipeError
from flows.recipe.config import Recipe, as_name, read_values, recipe_file
from flows.recipe.messages import as_written, explain
from flows.recipe.overrides import key_parts
from flows.recipe.paths import find_path
from flows.recipe.section import Section, inner_section
from flows.recipe.study_section import Study
from tasks.keys import code_digests, digest

SEED, OBJECTIVE = "seed", "train.objective"
# The axis whose values have names of their own, and set several keys each.
VARIANT = "variant"
# The key by which a YAML file is known to be a sweep.
AXES = "sweep"
# What makes a study's results of its runs. How numbers are written counts too, as the results have sentences.
_RESULTS_CODE = (
    *("evaluation.report.study_results", "evaluation.formats"),
    *("flows.runs.swept:swept_run,of_last_round", "flows.runs.made:made_by"),
    *("flows.sweep_end:compare", "flows.dag.choosing:choose"),
)


class Select(Section):
    """How settings are chosen: on the dev set alone, for every combination of the other axes, over all seeds."""

    on: str
    by: Literal["eval_accuracy", "eval_loss"]
    over: Annotated[list[str], Field(min_length=1)]

    @field_validator("on")
    @classmethod
    def _is_dev(cls, value: str) -> str:
        if value != "dev":
            raise ValueError(
                f"must be dev, got {value!r}: a benchmark on which settings are chosen can't say any more how good they are; write "
                "on: dev, with prepare.dev_fraction above 0 in the base"
            )
        return value


class SweepFile(Section):
    """What a sweep's YAML file holds."""

    base: str
    name: str | None = None
    sweep: Annotated[dict[str, list[object]], Field(min_length=1)]
    select: Select | None = None
    study: Study | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file and the command line say it.

    Attributes:
        name: its folder in the home, and the beginning of its runs' names.
        base: the recipe's file.
        overrides: `key=value` settings of all runs.
        axes: the values of each axis by recipe key, in the file's order; of the axis `variant` the variants' names.
        variants: what each variant sets, by its name.
        study: what a study says of itself; None of any other sweep.
    """

    name: str
    file: Path
    base: Path
    overrides: Sequence[str]
    axes: Mapping[str, Sequence[object]]
    variants: Mapping[str, Mapping[str, object]]
    select: Select | None
    study: Study | None = None

    def grid(self) -> list[dict[str, object]]:
        """The settings of every run by axis: each value of an axis with each of the others, the last axis changing first."""
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())]

    def settings_of(self, point: Mapping[str, object]) -> dict[str, object]:
        """What a run of the grid sets, by recipe key."""
        own = {key: value for key, value in point.items() if key != VARIANT}
        return {**self.variants[str(point[VARIANT])], **own} if VARIANT in point else own


def is_sweep(path: str) -> bool:
    """Whether a YAML file is a sweep's."""
    file = recipe_file(path)
    return not file.is_dir() and AXES in read_values(file, path)


def load_sweep(path: str, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep of a YAML file; the `overrides` are recipe keys of all its runs, and `name`, the sweep's own.

    Raises:
        RecipeError: naming the key, the rule, the value and the remedy.
    """
    file = find_path(path)
    if file.is_dir():
        raise RecipeError(f"SWEEP must be a YAML file, got the folder {file}; the project's own lie in flows/recipes/studies")
    values = read_values(file, path)
    if AXES not in values:
        raise RecipeError(
            f"SWEEP must be a file with `base` and `sweep`, got {path} without sweep; run a recipe with `bnf run`"
        )
    try:
        given = SweepFile.model_validate(values)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{path}: {_explained(entry)}" for entry in error.errors())) from None
    axes, variants = _axes(given.sweep)
    own = [word for word in overrides if not word.startswith("name=")]
    names = [word.removeprefix("name=") for word in overrides if word.startswith("name=")]
    name = _name(names[-1] if names else given.name or as_name(file.stem))
    of_variants = {key: f"sweep.{VARIANT}" for settings in variants.values() for key in settings}
    places = of_variants | {key: f"sweep.{key}" for key in axes}
    for key in (word.partition("=")[0] for word in own):
        if found := next((other for other in places if _overlap(".".join(key_parts(key)), other)), None):
            raise RecipeError(
                f"{key} must be set where the sweep sets it, got it on the command line too; change {places[found]} in {path}"
            )
    if given.study is not None:
        try:
            given.study.check_variants(variants)
        except ValueError as error:
            raise RecipeError(f"{path}: {error}") from None
    return Sweep(name, file, _base(given.base, file), own, axes, variants, _select(given.select, axes, variants), given.study)


def made_of(sweep: Sweep) -> str:
    """What decides a sweep's results beside its runs: a digest of its file, its base and the settings on the command line (but those of
    `resources`, which change no result), and one of the code that makes a study's results of the runs.
    """
    settings = [word for word in sweep.overrides if not word.startswith("resources.")]
    said = [read_values(sweep.file, str(sweep.file)), read_values(sweep.base, str(sweep.base)), settings]
    file = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
    return f"{file} {digest(code_digests(_RESULTS_CODE))}"


def same_but_code(one: str, other: str) -> bool:
    """Whether two results are made of the same file, base and settings, be it by other code."""
    return one.partition(" ")[0] == other.partition(" ")[0]


def as_override(key: str, value: object) -> str:
    """A setting as the command line has it."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _name(name: str) -> str:
    if name != as_name(name):
        raise RecipeError(
            f"name must be letters, digits, '.', '_' and '-', as the sweep's folder is called so, got {name!r}; write {as_name(name)}"
        )
    return name


def _base(base: str, file: Path) -> Path:
    beside = file.parent / person_path(base)
    if beside.is_dir():
        raise RecipeError(f"base must be a recipe's file, got the folder {beside}; name a file in it")
    found = beside if beside.is_file() else find_path(base, "base", file.parent)
    if AXES in read_values(found, str(found)):
        raise RecipeError(f"base must be a recipe, got the sweep {found}; name the recipe that it has as its base")
    return found


def _axes(given: Mapping[str, Sequence[object]]) -> tuple[dict[str, Sequence[object]], dict[str, dict[str, object]]]:
    axes: dict[str, Sequence[object]] = {}
    variants: dict[str, dict[str, object]] = {}
    for written, values in given.items():
        key = ".".join(key_parts(written))
        if key in axes:
            raise RecipeError(f"sweep.{written} must be one axis, got it twice, with - and with _; remove one")
        if key == "name":
            raise RecipeError("sweep.name must not be an axis, as a run's name says its settings, got it; remove it")
        if within := next((other for other in axes if _overlap(key, other)), None):
            raise RecipeError(f"sweep must have axes of keys that don't hold one another, got {within} and {key}; remove one")
        if not values:
            raise RecipeError(f"sweep.{key} must have a value or more, got an empty list; add one, or remove the axis")
        if key == VARIANT:
            variants = _variants(values)
            values = list(variants)
        twice = next((value for number, value in enumerate(values) if value in values[:number]), None)
        if twice is not None:
            raise RecipeError(f"sweep.{key} must have each value once, got {twice!r} twice; remove one")
        if key != VARIANT:
            _refuse_sections([(key, value) for value in values])
            _refuse_signatures(key, values)
        axes[key] = values
    for name, settings in variants.items():
        _refuse_sections(settings.items())
        if both := [key for key in settings if any(_overlap(key, axis) for axis in axes)]:
            raise RecipeError(
                f"sweep.{VARIANT} must set other keys than the axes, got {both[0]} in {name} and as an axis; remove one of them"
            )
    return axes, variants


def _variants(values: Sequence[object]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for value in values:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise RecipeError(
                f"sweep.{VARIANT} must be a list of mappings with a name and recipe keys, got {value!r}; write "
                "{name: dpo, train.objective: dpo}"
            )
        name = value["name"]
        if not any(map(str.isalnum, name)):
            raise RecipeError(f"sweep.{VARIANT} must have names with a letter or a digit, got {name!r}; write one")
        if name in found:
            raise RecipeError(f"sweep.{VARIANT} must have each name once, got {name!r} twice; rename one")
        found[name] = {".".join(key_parts(key)): entry for key, entry in value.items() if key != "name"}
    return found


def _overlap(key: str, other: str) -> bool:
    """Whether setting one of the keys sets the other too, or a part of it."""
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def _refuse_sections(settings: Iterable[tuple[str, object]]) -> None:
    """Refuse a whole section as a value: what the base says in it would be gone. A source of data is given whole."""
    for key, value in settings:
        field = Recipe.model_fields.get(key) if key != "data" else None
        # The section `train` is the library's.
        is_section = field is not None and (key == "train" or inner_section(field.annotation) is not None)
        if isinstance(value, dict) and is_section:
            one = next(iter(value), "KEY")
            raise RecipeError(
                f"sweep must set keys of {key} one by one, as the base's others would be lost, got {value!r}; write {key}.{one}"
            )


def _refuse_signatures(key: str, values: Sequence[object]) -> None:
    """Refuse a URL with a query or fragment on an axis: its values stand in records, names, tables and pages."""
    if settings_without_secrets({key: values}) != {key: list(values)}:
        raise RecipeError(
            f"sweep.{key} must have URLs without a password or a query or fragment, which may be a key, as tables and pages show an axis's "
            f"values, got one that has; set {key} in the variants of sweep.{VARIANT}, whose names are shown"
        )


def _explained(error: ErrorDetails) -> str:
    """A validation error of a sweep's file. Of its keys none has a default, and none stands on the command line."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{key} must be given, got nothing; add it to the file"
    if key == AXES:
        rule = "1 or more axes" if error["type"] == "too_short" else "a mapping of recipe keys to lists of values"
        return f"{key} must be {rule}, got {as_written(error['input'])}; write such as {{seed: [0, 1]}}"
    said = explain(error, SweepFile)
    return said.replace(", or leave it out for the default", "").replace(", or leave the key out for its default", "")


def _select(
    select: Select | None, axes: Mapping[str, Sequence[object]], variants: Mapping[str, Mapping[str, object]]
) -> Select | None:
    if select is None:
        return None
    over = [".".join(key_parts(key)) for key in select.over]
    if twice := next((key for number, key in enumerate(over) if key in over[:number]), None):
        raise RecipeError(f"select.over must name each axis once, got {twice} twice; remove one")
    if VARIANT in over and any(SEED in settings for settings in variants.values()):
        raise RecipeError(
            f"select.over must leave out seed, over which the dev values are averaged, got {VARIANT}, which sets it; make it an axis"
        )
    for key in over:
        if key not in axes:
            raise RecipeError(
                f"select.over must name axes of the sweep ({', '.join(axes)}), got {key!r}; correct it, or add the axis"
            )
        if key == SEED:
            raise RecipeError("select.over must leave out seed, over which the dev values are averaged, got seed; remove it")
        if key == OBJECTIVE:
            raise RecipeError(
                f"select.over must leave out {OBJECTIVE}, for each of which settings are chosen, got it; remove it"
            )
    if select.by == "eval_loss" and (options := next((key for key in over if key.startswith("train.objective_options")), None)):
        raise RecipeError(
            f"select.by must be eval_accuracy over {options}, with which the loss itself changes, got eval_loss; write eval_accuracy"
        )
    return select.model_copy(update={"over": over})
