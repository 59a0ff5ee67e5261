"""Objectives: one file each, whose name is its name in a recipe. Nothing is registered.

A new objective is a new file here with a dataclass `Objective` (see `_base.py` for what it gives and gets); its fields are
its options.
"""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from bnf.objectives._base import BaseObjective

_FOLDER = Path(__file__).parent


def objective_names() -> list[str]:
    """The names of all objectives: the files of this folder that do not start with an underscore."""
    return sorted(path.stem for path in _FOLDER.glob("[!_]*.py"))


def load_objective(name: str, options: Mapping[str, Any] | None = None) -> BaseObjective:
    """The objective `name` with its options set; nothing heavy is imported.

    Raises:
        ValueError: for an unknown objective or option, naming those there are, or an option that breaks its rule.
    """
    if not isinstance(options, Mapping | None):
        raise ValueError(f"objective_options must be a mapping of options to values, got {options!r}; write {{}} for none")
    known = option_types(name)
    for key in options or {}:
        if key not in known:
            listed = f"its options are {', '.join(known)}" if known else "it has no options"
            raise ValueError(f"objective_options must be options of {name}, got {key!r}; {listed}")
    return _objective_class(name)(**(options or {}))


def option_types(name: str) -> dict[str, str]:
    """The options of the objective `name`, each with its type as its file declares it.

    Raises:
        ValueError: for an unknown objective.
    """
    return {option.name: str(option.type) for option in fields(_objective_class(name))}


def _objective_class(name: str) -> type[BaseObjective]:
    names = objective_names()
    if name not in names:
        nearest = get_close_matches(str(name).lower(), names, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        new = f"a new one is a file bnf/objectives/{name}.py" if str(name).isidentifier() else "correct the name"
        raise ValueError(f"objective must be one of {', '.join(names)}, got {name!r}; {hint}{new}")
    found: type[BaseObjective] = import_module(f"bnf.objectives.{name}").Objective
    return found
