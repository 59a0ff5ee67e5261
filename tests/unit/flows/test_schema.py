"""The JSON schema of recipes: its file is what the models give, it takes what a recipe may say, and an editor finds it."""

import copy
from urllib.parse import unquote, urlparse

import pytest
from jsonschema import Draft7Validator

from bnf.plain_yaml import read
from flows.recipe.schema import SCHEMA, SWEEP_SCHEMA, as_text, first_line, schema, sweep_schema
from tests.recipes import RECIPES, SWEEPS

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
    for file, found in ((SCHEMA, schema()), (SWEEP_SCHEMA, sweep_schema())):
        assert file.read_text(encoding="utf-8") == as_text(found), "run `python -m flows.recipe.docs`"


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


@pytest.fixture(scope="module")
def of_sweeps():
    Draft7Validator.check_schema(sweep_schema())
    return Draft7Validator(sweep_schema())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_keeps_its_schema_and_names_it_in_its_first_line(path, of_sweeps):
    assert [error.message for error in of_sweeps.iter_errors(read(path.read_bytes(), path.name))] == []
    line = path.read_text(encoding="utf-8").splitlines()[0]
    assert line == first_line(path, SWEEP_SCHEMA)
    assert (path.parent / line.partition("$schema=")[2]).resolve() == SWEEP_SCHEMA


@pytest.mark.parametrize(
    ("axis", "values", "valid"),
    [
        ("train.learning_rate", [1e-5, 2e-5], True),
        ("train.learnin_rate", [1e-5], False),
        ("train.learning_rate", ["fast"], False),
        ("train.learning_rate", 1e-5, False),
        ("train.learning_rate", [], False),
        ("train.objective", ["bnf", "dpp"], False),
        ("train.objective_options.beta", [0.1, 0.5], True),
        ("train.objective_options.bta", [0.1], False),
        ("evaluation.benchmarks", [["gsm8k"], {"gsm8k": {"limit": 3}}], True),
        ("evaluation.benchmarks.gsm8k.limit", [3, None], True),
        ("data.0.limit", [5], True),
        ("dato.0.limit", [5], False),
        ("variant", [{"name": "dpo", "train.objective": "dpo"}], True),
        ("variant", [{"name": "dpo", "train.objectiv": "dpo"}], False),
        ("variant", [{"train.objective": "dpo"}], False),
    ],
)
def test_an_axis_is_a_key_of_a_recipe_with_a_list_of_its_values(axis, values, valid, of_sweeps):
    assert of_sweeps.is_valid({"base": "b.yaml", "sweep": {"seed": [0], axis: values}}) == valid


@pytest.mark.parametrize(
    "changes",
    [{"bas": "x"}, {"select": {"on": "dev", "by": "eval_acuracy", "over": ["seed"]}}, {"sweep": {}}, {"selct": None}],
)
def test_misspelled_keys_of_a_sweep_are_marked(changes, of_sweeps):
    assert of_sweeps.is_valid({"base": "b.yaml", "sweep": {"seed": [0]}})
    assert not of_sweeps.is_valid({"base": "b.yaml", "sweep": {"seed": [0]}, **changes})
