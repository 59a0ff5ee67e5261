"""The JSON schema of recipes: its file is what the models give, it takes what a recipe may say, and an editor finds it."""

import copy
from urllib.parse import unquote, urlparse

import pytest
from jsonschema import Draft7Validator

from bnf.plain_yaml import read
from flows.recipe.schema import SCHEMA, as_text, first_line, schema
from tests.recipes import RECIPES

SMALL = {"model_name_or_path": "x", "data": {"source": "pairs", "path": "p.jsonl"}, "train": {"objective": "bnf"}}


@pytest.fixture(scope="module")
def validator():
    Draft7Validator.check_schema(schema())
    return Draft7Validator(schema())


def with_value(key, value):
    recipe = copy.deepcopy(SMALL)
    *parents, last = key.split(".")
    place = recipe
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return recipe


def test_the_file_is_what_the_models_give():
    assert SCHEMA.read_text(encoding="utf-8") == as_text(), "run `python -m flows.recipe.docs`"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_keeps_it_and_names_it_in_its_first_line(path, validator):
    assert [error.message for error in validator.iter_errors(read(path.read_bytes(), path.name))] == []
    line = path.read_text(encoding="utf-8").splitlines()[0]
    assert line == first_line(path) and (path.parent / line.partition("$schema=")[2]).resolve() == SCHEMA


def test_a_recipe_elsewhere_names_the_file_of_this_checkout(tmp_path):
    url = first_line(tmp_path / "my recipes" / "mine.yaml").partition("$schema=")[2]
    assert unquote(urlparse(url).path) == str(SCHEMA) and " " not in url


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluation.benchmarks", ["gsm8k", "crux"]),
        ("evaluation.benchmarks", {"gsm8k": {"source": "sample", "limit": 3}, "crux": None}),
        ("evaluation.lm_eval", ["arc_easy"]),
        ("judge", {"engine": "openai", "model": "m", "benchmarks": {"arena_hard": {"forms": ["pairwise"]}}}),
        ("data", [{"source": "pairs", "path": "x", "weight": 1}, {"source": "thumbs", "path": "y", "weight": 2}]),
        ("train.objective_options", {"beta": 0.1}),
        ("train.max_tokens_per_row", "auto"),
        ("train.activation_checkpointing", True),
        ("data.limit", 5),
        ("system_prompt", "Be brief."),
    ],
)
def test_it_takes_what_a_recipe_may_say(key, value, validator):
    assert validator.is_valid(with_value(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluation.benchmarks", ["arena_hard"]),
        ("evaluation.benchmarks", {"gsm8q": {}}),
        ("train.objective", "dpp"),
        ("train.beta", 0.1),
        ("train.seed", 1),
        ("train.objective_options", {"bta": 0.1}),
        ("data.source", "gsm8k"),
        ("data.limit", 0),
        ("prepare.mask_fraction", 2),
        ("learning_rate", 1e-5),
    ],
)
def test_it_marks_what_a_recipe_may_not_say(key, value, validator):
    assert not validator.is_valid(with_value(key, value))


def test_every_key_says_what_it_means():
    found = schema()
    sections = {"recipe": found, **found["$defs"]}
    silent = [
        f"{section}.{name}"
        for section, about in sections.items()
        for name, key in about["properties"].items()
        if not key.get("description")
    ]
    train = next(choice for choice in found["properties"]["train"]["anyOf"] if "properties" in choice)
    silent += [f"train.{name}" for name, key in train["properties"].items() if not key.get("description")]
    assert silent == []
