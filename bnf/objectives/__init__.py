"""Objectives: what a training minimises. Each is a file of this folder, whose name is its name in a recipe; nothing is registered.

A new objective is a new file with a dataclass `Objective`, a `BaseObjective` whose fields are its options.

RowLogps: what an objective gets of a row.
Losses: what it gives.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Protocol

from bnf.nearest import did_you_mean
from bnf.objectives._base import BaseObjective, Losses, RowLogps, log_odds_of
from bnf.plugins import Kind, load, names

__all__ = [
    "OBJECTIVES",
    "BaseObjective",
    "Losses",
    "ObjectiveFile",
    "RowLogps",
    "load_objective",
    "log_odds_of",
    "option_types",
]


class ObjectiveFile(Protocol):
    """What an objective's file holds."""

    Objective: type[BaseObjective]


OBJECTIVES = Kind("objective", "bnf.objectives", ObjectiveFile)


def load_objective(name: str, options: Mapping[str, object] | None = None) -> BaseObjective:
    """The objective `name` with its options set; nothing heavy is imported.

    Raises:
        ValueError: there is no such objective or option (the message names those there are), or an option breaks its rule.
        TypeError: the objective's file doesn't keep the contract.
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
        ValueError: there is no such objective.
        TypeError: the objective's file doesn't keep the contract.
    """
    return {option.name: str(option.type) for option in fields(_objective_class(name))}


def _objective_class(name: str) -> type[BaseObjective]:
    known = names(OBJECTIVES)
    if name not in known:
        hint = f"{meant} " if (meant := did_you_mean(str(name), known)) else ""
        new = f"a new one is a file bnf/objectives/{name}.py" if str(name).isidentifier() else "correct the name"
        raise ValueError(f"objective must be one of {', '.join(known)}, got {name!r}; {hint}{new}")
    found = load(OBJECTIVES, name).Objective
    wrong = _breach(found)
    if wrong:
        raise TypeError(f"Objective of bnf/objectives/{name}.py must be a dataclass on BaseObjective, got {wrong}; correct it")
    return found


def _breach(found: type) -> str | None:
    """In what a file's `Objective` is no whole objective, in words."""
    if not (isinstance(found, type) and issubclass(found, BaseObjective)):
        return "one that isn't based on it"
    if "__dataclass_fields__" not in vars(found):
        return "a class without @dataclass(frozen=True), whose fields would be no options"
    missing = sorted(found.__abstractmethods__)
    return f"one without {', '.join(f'{name}()' for name in missing)}" if missing else None
