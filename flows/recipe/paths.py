"""Where the paths of a recipe and of the command line lead."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from bnf.paths import person_path
from bnf.urls import without_keys, without_secrets
from flows.errors import RecipeError
from tasks.keys import ROOT

Model = TypeVar("Model", bound=BaseModel)
# A web address with a user, who may be a token; any other with a password: `hdfs://user@host` and `abfs://container@account` have none.
_PASSWORD = re.compile(r"https?://[^/?#\s]*@|://[^/?#\s:@]*:[^/?#\s]*@", re.IGNORECASE)
_QUERY = re.compile(r"[?#]")


@dataclass(frozen=True)
class MayBeLocal:
    """Marks a key of the recipe that may name a file or folder of this machine. `other_words` are values that never do."""

    other_words: tuple[str, ...] = ()


def find_path(path: str, key: str = "", beside: Path | None = None) -> Path:
    """A path as a recipe or command line gives it: from the working folder, else beside the recipe, else from the project's root.

    Args:
        path: absolute, relative, or from `~`.
        key: what gives it, for the message.
        beside: the recipe's folder.

    Raises:
        RecipeError: nothing is there, or the working folder and the recipe's have different files of that name.
    """
    found = _places(path, beside)
    if not found:
        searched = "" if person_path(path).is_absolute() else f" in {' or '.join(map(str, _folders(beside)))}"
        named = f"{key}: {path}" if key else path
        remedy = f"write {path}.yaml" if path and not key and _places(f"{path}.yaml", beside) else "check the path"
        raise RecipeError(f"{named} must exist, got no such file or folder{searched}; {remedy}")
    # A person's file may stand in for the project's of that name. Of two different files in the working folder and beside the recipe,
    # nobody can tell which is meant.
    for other in found[1:]:
        if beside is not None and other == beside / path and not os.path.samefile(found[0], other):
            raise RecipeError(
                f"{key or 'the path'} must name one place, got {path}, which is in the working folder {Path.cwd()} and beside the recipe "
                f"in {beside}; write the absolute path"
            )
    return found[0]


def _folders(beside: Path | None) -> list[Path]:
    return list(dict.fromkeys([Path.cwd(), *([beside] if beside else []), ROOT]))


def _places(path: str, beside: Path | None) -> list[Path]:
    """Where the path leads to something, in order."""
    given = person_path(path)
    return [_plain(folder / given) for folder in _folders(beside) if path and os.path.exists(folder / given)]


def _plain(path: Path) -> Path:
    """The path without `..`, so that a place has one name. Links stay: what one leads to may have another name."""
    plain = Path(os.path.normpath(path))
    # Behind a link `..` is another folder than the text says.
    return plain if plain.exists() and plain.samefile(path) else path


def located(model: Model, beside: Path | None = None) -> Model:
    """A recipe, or a section of one, with absolute paths, so that it means the same from any working folder.

    A path that leads nowhere stays as it is: it may be a hub id, or is refused where it is needed.

    Raises:
        RecipeError: as in `find_path`, for a path with two meanings.
    """

    def absolute(key: str, path: str) -> str:
        return path if "://" in path or not _places(path, beside) else str(find_path(path, key, beside))

    return _with_paths(model, absolute, "")


def portable(model: Model) -> Model:
    """A recipe as keys, reports and deployments have it: paths inside the project count from the project's root."""
    return _with_paths(model, lambda key, path: in_project(path), "")


def without_folders(model: Model) -> Model:
    """A recipe as it is given away: of a path outside the project the last part alone, which says nothing of the machine; of a URL no user,
    password, query or fragment, which may hold a key.
    """

    def given_away(key: str, path: str) -> str:
        if "://" in path:
            return without_keys(path)
        inside = in_project(path)
        return Path(inside).name if Path(inside).is_absolute() else inside

    return _with_paths(model, given_away, "", others=("base_url",))


def without_signatures(model: Model) -> Model:
    """A recipe as others may see it: of a URL neither password, query nor fragment, which may be its signature."""
    return _with_paths(model, lambda key, path: without_secrets(path), "")


def refuse_passwords(model: BaseModel) -> None:
    """Refuse URLs of a recipe that hold a user and a password: they would stand in keys, manifests, records and reports.

    Raises:
        ValueError: naming the key, and not what it holds.
    """

    def check(key: str, url: str) -> str:
        refuse_password(key, url)
        return url

    _with_paths(model, check, "", others=("base_url",))


def refuse_password(key: str, url: str) -> None:
    """Raises ValueError where a URL holds a user and a password, or that of an endpoint a query or fragment; those of a file may be its
    signature."""
    if not (key.endswith("base_url") and _QUERY.search(url)) and not _PASSWORD.search(url):
        return
    if key.endswith("base_url"):
        rule, remedy = (
            "user, password, query or fragment",
            "export the key as OPENAI_API_KEY, or as the variable that `api_key_variable` names",
        )
    else:
        rule, remedy = (
            "user and password",
            "set them where fsspec looks, such as FSSPEC_HTTPS (docs/data.md) or AWS_ACCESS_KEY_ID, or fetch the file",
        )
    raise ValueError(
        f"{key} must hold no {rule}, which would stand in keys and records, got a URL that does; leave them out and {remedy}"
    )


def in_project(path: str) -> str:
    """A path from the project's root, where it leads into the project; else the path as it is."""
    given = Path(path)
    return str(given.relative_to(ROOT)) if given.is_absolute() and given.is_relative_to(ROOT) else path


def _with_paths(model: Model, change: Callable[[str, str], str], key: str, others: tuple[str, ...] = ()) -> Model:
    """The model with its paths changed, and the texts of keys that are called as in `others`."""
    changed = {}
    for name, field in type(model).model_fields.items():
        value, where = getattr(model, name), f"{key}.{name}" if key else name
        marks = [mark for mark in field.metadata if isinstance(mark, MayBeLocal)]
        if not marks and not (name in others and isinstance(value, str)):
            new = _inside(value, change, where, others)
        else:
            words = marks[0].other_words if marks else ()
            new = change(where, value) if isinstance(value, str) and value not in words else value
        if new != value:
            changed[name] = new
    return model.model_copy(update=changed)


def _inside(value: object, change: Callable[[str, str], str], key: str, others: tuple[str, ...]) -> object:
    if isinstance(value, BaseModel):
        return _with_paths(value, change, key, others)
    if isinstance(value, list):
        return [_inside(entry, change, f"{key}.{number}", others) for number, entry in enumerate(value)]
    if isinstance(value, dict):
        return {name: _inside(entry, change, f"{key}.{name}", others) for name, entry in value.items()}
    return value
