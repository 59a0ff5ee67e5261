"""The JSON schemas of recipes and of sweeps, from which an editor completes keys and values, shows what they mean and marks what is wrong.

They are made from the models of the files. `python -m flows.recipe.docs` writes them to docs/recipe.schema.json and docs/sweep.schema.json,
and a file names its own in its first line. They say less than `bnf plan`: nothing of rules over several keys. They know keys by their names
with `_`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic.json_schema import JsonSchemaValue

from bnf.objectives import OBJECTIVES, option_types
from bnf.plugins import load, names
from bnf.training.schedule import SCHEDULES
from data.labelers import LABELERS
from data.sources import SOURCES
from evaluation.benchmarks import BENCHMARKS
from evaluation.judging.protocols import PROTOCOLS
from flows.recipe.config import Recipe
from flows.recipe.sweep_file import AXES, VARIANT, SweepFile
from tasks.keys import ROOT

SCHEMA, SWEEP_SCHEMA = ROOT / "docs" / "recipe.schema.json", ROOT / "docs" / "sweep.schema.json"
_DRAFT = "http://json-schema.org/draft-07/schema#"


def schema() -> JsonSchemaValue:
    """The schema, with the names of the plug-ins that there are."""
    found = {"$schema": _DRAFT, **Recipe.model_json_schema()}
    found["title"] = "A recipe of bnf"
    sections = found["$defs"]
    kinds = {name: load(SOURCES, name).GIVES for name in names(SOURCES)}
    _choose(sections["Data"], "source", [name for name, kind in kinds.items() if kind not in ("problems", "prompts")])
    _choose(sections["Sample"], "source", names(SOURCES))
    _choose(sections["Label"], "labeler", names(LABELERS))
    forms = {name: load(BENCHMARKS, name).FORMS for name in names(BENCHMARKS)}
    _name(sections["Evaluation"], "benchmarks", [name for name, judged in forms.items() if not judged])
    _name(sections["Judge"], "benchmarks", [name for name, judged in forms.items() if judged])
    _name(sections["Evaluation"], "lm_eval", None)
    for one in _inside(sections["JudgedBenchmark"]["properties"]["forms"]):
        if one.get("type") == "string":
            one["enum"] = names(PROTOCOLS)
    # `null` stands for a section that is left out.
    (train,) = (choice for choice in found["properties"]["train"]["anyOf"] if "properties" in choice)
    train["additionalProperties"] = False
    _choose(train, "objective", names(OBJECTIVES))
    _choose(train, "lr_scheduler_type", SCHEDULES)
    train["properties"]["objective_options"] |= {"properties": _options(), "additionalProperties": False}
    train["properties"]["activation_checkpointing"] = {
        **train["properties"]["gradient_checkpointing"],
        "title": "activation_checkpointing",
    }
    for one in _inside(found):
        # Defaults of whole sections say what each of their keys says.
        if isinstance(one.get("default"), dict):
            del one["default"]
    return found


def sweep_schema() -> JsonSchemaValue:
    """The schema of a sweep's file. An axis is any key of a recipe by its dotted name, with a list of what that key takes."""
    recipe, found = schema(), {"$schema": _DRAFT, **SweepFile.model_json_schema()}
    found["title"] = "A sweep of bnf"
    keys: JsonSchemaValue = {}
    open_keys: JsonSchemaValue = {}
    _dotted(recipe, recipe, "", keys, open_keys)
    found["$defs"] = {**recipe["$defs"], **found.get("$defs", {}), "keys": keys}
    of_key = {key: {"$ref": f"#/$defs/keys/{key}"} for key in keys}
    variant = {
        "type": "object",
        "properties": {"name": {"type": "string"}, **of_key},
        "patternProperties": open_keys,
        "required": ["name"],
        "additionalProperties": False,
    }

    def axis(values: JsonSchemaValue) -> JsonSchemaValue:
        return {"type": "array", "minItems": 1, "items": values}

    found["properties"][AXES] = {
        "title": AXES,
        "type": "object",
        "minProperties": 1,
        "properties": {VARIANT: axis(variant), **{key: axis(values) for key, values in of_key.items()}},
        "patternProperties": {pattern: axis(values) for pattern, values in open_keys.items()},
        "additionalProperties": False,
    }
    return found


def _dotted(
    whole: JsonSchemaValue, section: JsonSchemaValue, prefix: str, keys: JsonSchemaValue, open_keys: JsonSchemaValue
) -> None:
    """Collects what each dotted key within a section takes; `open_keys` are patterns of those whose names the schema doesn't know."""
    if "$ref" in section:
        section = whole["$defs"][section["$ref"].rpartition("/")[2]]
    for choices in ("anyOf", "oneOf"):
        for one in section.get(choices, ()):
            _dotted(whole, one, prefix, keys, open_keys)
    for name, about in section.get("properties", {}).items():
        keys.setdefault(f"{prefix}{name}", about)
        _dotted(whole, about, f"{prefix}{name}.", keys, open_keys)
    named = prefix.replace(".", r"\.")
    if "$ref" in section.get("items", {}):
        # A list of sections, each by its place.
        open_keys[rf"^{named}\d+\."] = {}
    if isinstance(section.get("additionalProperties"), dict):
        open_keys[f"^{named}."] = {}


def as_text(found: JsonSchemaValue) -> str:
    """A schema as its file has it."""
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def first_line(recipe: Path, schema_file: Path = SCHEMA) -> str:
    """The comment that leads an editor from a recipe's or sweep's file to the schema in this checkout, without a network.

    Inside the checkout the path is relative, so that it holds in every clone; for a recipe elsewhere it is absolute. The checkout's file
    is that of the version that runs; a copy beside the recipe would fall behind it.
    """
    folder = recipe.absolute().parent.resolve()
    inside = folder.is_relative_to(ROOT.resolve())
    target = schema_file.resolve()
    place = Path(os.path.relpath(target, folder)).as_posix() if inside else target.as_uri()
    return f"# yaml-language-server: $schema={place}"


def _choose(section: JsonSchemaValue, key: str, choices: Iterable[str]) -> None:
    section["properties"][key]["enum"] = list(choices)


def _name(section: JsonSchemaValue, key: str, known: list[str] | None) -> None:
    """Lets a mapping of names to settings be a list of names too, and settings be left out; `known` are the names there are."""
    about = section["properties"][key]
    settings = about.pop("additionalProperties")
    about.pop("type")
    one = {"type": "string"} if known is None else {"enum": known}
    with_settings = {"anyOf": [settings, {"type": "null"}]}
    mapping: JsonSchemaValue = {"type": "object", "additionalProperties": with_settings}
    if known is not None:
        mapping = {"type": "object", "properties": dict.fromkeys(known, with_settings), "additionalProperties": False}
    about["anyOf"] = [mapping, {"type": "array", "items": one}]


def _options() -> JsonSchemaValue:
    """The options of all objectives, each with whose it is."""
    takers: dict[str, list[str]] = {}
    for objective in names(OBJECTIVES):
        for option in option_types(objective):
            takers.setdefault(option, []).append(objective)
    return {option: {"title": option, "description": f"of {', '.join(whose)}"} for option, whose in sorted(takers.items())}


def _inside(value: object) -> Iterator[JsonSchemaValue]:
    """Every mapping within a schema."""
    if isinstance(value, dict):
        yield value
    for inner in list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _inside(inner)
