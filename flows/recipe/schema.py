"""The JSON schema of recipes, from which an editor completes keys and values, shows what they mean and marks what is wrong.

It is made from the recipe's models. `python -m flows.recipe.docs` writes it to docs/recipe.schema.json, and a recipe names that file in its
first line. It says less than `bnf plan`: nothing of rules over several keys. It knows keys by their names with `_`.
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
from tasks.keys import ROOT

SCHEMA = ROOT / "docs" / "recipe.schema.json"
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


def as_text() -> str:
    """The schema as its file has it."""
    return json.dumps(schema(), ensure_ascii=False, indent=1) + "\n"


def first_line(recipe: Path) -> str:
    """The comment that leads an editor from a recipe's file to the schema in this checkout, without a network.

    Inside the checkout the path is relative, so that it holds in every clone; for a recipe elsewhere it is absolute. The checkout's file
    is that of the version that runs; a copy beside the recipe would fall behind it.
    """
    folder = recipe.absolute().parent.resolve()
    inside = folder.is_relative_to(ROOT.resolve())
    place = Path(os.path.relpath(SCHEMA.resolve(), folder)).as_posix() if inside else SCHEMA.resolve().as_uri()
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
