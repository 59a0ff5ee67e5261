"""Turns pydantic's validation errors into messages that name the key, the rule, the value and the remedy."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import fields

from pydantic_core import ErrorDetails

from bnf.nearest import did_you_mean
from bnf.training.config import TrainConfig
from flows.recipe.known_names import remedy_for, remedy_of_misplaced
from flows.recipe.section import ONE, SEVERAL, Section, inner_section

_TRAIN_KEYS = {known.name for known in fields(TrainConfig)}
# The library's message of an unknown key, up to its remedy.
_UNKNOWN = re.compile(r"train\.(?P<key>\S+) must be a known key, got [^;]*")

# A choice in pydantic's list of them.
_QUOTED = re.compile(r"'([^']*)'")
# What a value must be, by pydantic's name of the error, and the remedy.
_RULES = {
    "int_type": ("a whole number", "write it as 8, without quotes, point or a 0 before it"),
    "float_type": ("a number", "write it as 0.5 or 1e-5, without quotes"),
    "finite_number": ("a finite number", "correct it"),
    "bool_type": ("true or false", "write one of these, without quotes"),
    "string_type": ("text", "put it in quotes"),
    "dict_type": ("a mapping of keys to values", "leave it out, or write {} for an empty one"),
    "model_type": ("a mapping of its keys", "leave it out, or write {} for its defaults"),
    "list_type": ("a list", "write [a, b]"),
    "less_than": ("below {lt:.15g}", "correct it, or leave it out for the default"),
    "less_than_equal": ("at most {le:.15g}", "correct it, or leave it out for the default"),
    "greater_than": ("above {gt:.15g}", "correct it, or leave it out for the default"),
    "greater_than_equal": ("at least {ge:.15g}", "correct it, or leave it out for the default"),
    "too_short": ("{min_length} or more", "add one, or leave it out"),
    "literal_error": ("{expected}", "write one of these, or leave it out for the default"),
}


def explain(error: ErrorDetails, recipe: type[Section]) -> str:
    """A validation error of `recipe` as a message that names the key, the rule, the value and the remedy."""
    location = [str(part) for part in error["loc"] if part not in (ONE, SEVERAL, "[key]")]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = list(_section_at(location[:-1], recipe).model_fields)
        inside = location[:-1]
        section = "judge" if "judge" in inside else inside[0] if inside else None
        if section and (misplaced := remedy_of_misplaced(section, location[-1], recipe.model_fields)):
            return f"{key} must be a key of the recipe, got an unknown one; {misplaced}"
        # A key of the training at the top of the recipe, or in another section.
        if location[-1] in _TRAIN_KEYS:
            return f"{key} must be a key of the recipe, got an unknown one; write train.{location[-1]}, or put it into `train`"
        guess = did_you_mean(location[-1], known)
        elsewhere = remedy_for(location[-1])
        # Other programs have flat settings, or their data's and the training's in sections; elsewhere a slip of the pen is likelier.
        flat = len(location) == 1 or location[0] in ("data", "prepare")
        remedy = (elsewhere or guess) if flat else (guess or elsewhere)
        return f"{key} must be a key of the recipe, got an unknown one; {remedy or 'known are ' + ', '.join(known)}"
    if error["type"] == "value_error":
        # The project's own validators say all of it but where their section stands; pydantic's prefix adds nothing.
        said = str(error["ctx"]["error"])
        return f"{key} {said}" if said.startswith("must ") else f"{key}.{said}" if key else said
    if error["type"] == "missing":
        return f"{key} must be given, got nothing; add it to the recipe or write {key}=…"
    if error["type"] == "invalid_key" or error["loc"][-1:] == ("[key]",):
        return f"{key} must be a key of text, got {error['input']!r} as a key; put it in quotes if it is a name"
    if error["type"] in _RULES:
        rule, remedy = _RULES[error["type"]]
        if error["input"] is None and error["type"] == "string_type":
            remedy = "write one, or leave the key out for its default"
        if error["type"] == "literal_error":
            remedy = did_you_mean(str(error["input"]), _QUOTED.findall(error["ctx"]["expected"])) or remedy
        return f"{key} must be {rule.format(**error.get('ctx', {}))}, got {as_written(error['input'])}; {remedy}"
    return f"{key} must be valid ({error['msg']}), got {as_written(error['input'])}"


def of_training(said: str, top: Collection[str]) -> str:
    """The library's message on a key of `train`, without the section's name; of another program's key, or of one that stands elsewhere in
    a recipe, with what to set. `top` are the keys at the top of a recipe."""
    unknown = _UNKNOWN.match(said)
    remedy = remedy_of_misplaced("train", unknown["key"], top) or remedy_for(unknown["key"]) if unknown else None
    if unknown and remedy:
        said = f"{unknown[0]}; {remedy}"
    return said.removeprefix("train.")


def as_written(value: object) -> str:
    """A value as a recipe has it."""
    return "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _section_at(location: Sequence[str], recipe: type[Section]) -> type[Section]:
    """The section of a recipe at a place; names and numbers in the place lead no further in."""
    section = recipe
    for part in location:
        key = section.model_fields.get(part)
        section = (key and inner_section(key.annotation)) or section
    return section
