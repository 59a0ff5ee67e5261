"""The tables of keys in docs/recipes.md, made from the recipe's models. `python -m flows.recipe.docs` writes them anew, and the JSON
schemas of recipes and sweeps (`flows.recipe.schema`).
"""

from __future__ import annotations

import json
import re
from typing import get_origin

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaValue

from bnf.training.config import TrainConfig
from flows.recipe.config import Recipe
from flows.recipe.schema import SCHEMA, SWEEP_SCHEMA, as_text, schema, sweep_schema
from flows.recipe.section import Section, inner_section
from tasks.keys import ROOT

DOCUMENT = ROOT / "docs" / "recipes.md"
_WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
_TABLE = re.compile(r"(?<=^<!-- keys of )(?P<section>\S+) -->\n(?:\|.*\n)*", re.M)


def sections(section: type[Section] = Recipe, place: str = "recipe") -> dict[str, type[Section] | type[TrainConfig]]:
    """Every section of a recipe by its place in it: `prepare.ratings`, `judge.benchmarks.NAME`; `train` as its dataclass."""
    found: dict[str, type[Section] | type[TrainConfig]] = {place: section}
    for name, key in section.model_fields.items():
        inner, whole = inner_section(key.annotation), name if section is Recipe else f"{place}.{name}"
        if inner is not None:
            found |= sections(inner, f"{whole}.NAME" if get_origin(key.annotation) is dict else whole)
    return found | ({"train": TrainConfig} if section is Recipe else {})


def with_tables(text: str) -> str:
    """The document with the table of a section's keys behind every comment `<!-- keys of SECTION -->`."""
    return _TABLE.sub(lambda found: f"{found['section']} -->\n{table(found['section'])}", text)


def table(section: str) -> str:
    """A section's keys in Markdown: what each takes, its default and its meaning."""
    lines = [
        f"| `{section}` | takes | default | |" if section != "recipe" else "| key | takes | default | |",
        "|---|---|---|---|",
    ]
    schema = TypeAdapter(sections()[section]).json_schema()
    required = schema.get("required", ())
    for name, key in schema["properties"].items():
        # The recipe's own `seed` is the training's.
        if (section, name) != ("train", "seed"):
            default = "required" if name in required else _default(key.get("default"))
            lines.append(f"| `{name}` | {_takes(key)} | {default} | {key.get('description', '')} |")
    return "\n".join(lines) + "\n"


def _takes(key: JsonSchemaValue) -> str:
    """The values of a key in words, from its JSON schema."""
    for choices in ("anyOf", "oneOf"):
        if choices in key:
            return " or ".join(dict.fromkeys(_takes(one) for one in key[choices] if one.get("type") != "null"))
    if "enum" in key or "const" in key:
        return ", ".join(f"`{value}`" for value in key.get("enum", [key.get("const")]))
    if "$ref" in key:
        return "section"
    bounds = [f"{sign} {_default(key[bound])}" for bound, sign in _BOUNDS.items() if bound in key]
    return " ".join([_WORDS[key["type"]], ", ".join(bounds)]).strip()


def _default(value: object) -> str:
    if value is None or isinstance(value, dict | list):
        return "–"
    if isinstance(value, str):
        return f"`{value}`"
    return re.sub(r"e-0", "e-", f"{value:g}") if isinstance(value, float) else json.dumps(value)


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMA.write_text(as_text(schema()), encoding="utf-8")
    SWEEP_SCHEMA.write_text(as_text(sweep_schema()), encoding="utf-8")
