"""A recipe's values by dotted keys, and those in which two recipes differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flows.errors import RecipeError
from flows.recipe.config import Recipe, load_recipe
from flows.recipe.overrides import apply_overrides


def dotted(recipe: object) -> dict[str, object]:
    """A recipe's plain values by dotted keys."""
    return dict(_leaves(recipe, ""))


def _leaves(value: object, key: str) -> Iterator[tuple[str, object]]:
    """The settings inside a value by dotted keys; in a list of mappings the key is the place."""
    inside: Iterable[tuple[object, object]] = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        inside = enumerate(value)
    if not inside:
        yield key, value
    for name, entry in inside:
        yield from _leaves(entry, f"{key}.{name}" if key else str(name))


def changed_keys(recipe: Recipe, of: Recipe) -> dict[str, object]:
    """The keys of a recipe that another one doesn't have, or has with other values, by dotted keys."""
    known = dotted(of.model_dump())
    return {key: value for key, value in dotted(recipe.model_dump()).items() if key not in known or known[key] != value}


def keys_set(path: str, overrides: Sequence[str], recipe: Recipe) -> dict[str, object]:
    """What `recipe`, made of a file and overrides, sets otherwise than the file, by dotted keys. Of a file that is no recipe without its
    overrides, these are all of them.
    """
    if not overrides:
        return {}
    try:
        return changed_keys(recipe, load_recipe(path))
    except RecipeError:
        return dotted(apply_overrides({}, overrides))
