"""Every value of a recipe is of the type its key asks for, and every message begins with the key as a recipe has it."""

import math
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from flows.errors import RecipeError
from flows.recipe.config import Recipe, load_recipe, make_recipe

MINIMAL: dict[str, Any] = {"name": "r", "model_name_or_path": "some/model"}
ENDPOINT = {"engine": "openai", "model": "m"}
# A recipe with every section, so that each number of each can be set.
FULL: dict[str, Any] = {
    **MINIMAL,
    "data": {"source": "pairs", "path": "x.jsonl"},
    "sample": {"source": "number_comparison", "offline_mix": 0.5},
    "label": {"judge": ENDPOINT},
    "train": {},
    "evaluation": {"benchmarks": {"gsm8k": {}}, "lm_eval": {"ifeval": {}}, "engine": "transformers"},
    "judge": {**ENDPOINT, "second": ENDPOINT, "benchmarks": {"arena_hard": {}}},
    "spending": {"prices": {"m": {"input": 1, "output": 2}}},
}


def _numbers(model: Any, key: str = "") -> list[str]:
    """The dotted keys of all numbers that a recipe may hold."""
    found: list[str] = []
    for name, field in type(model).model_fields.items():
        where = f"{key}.{name}" if key else name
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            found += _numbers(value, where)
        elif isinstance(value, dict) and where != "train":
            found += [
                one
                for part, entry in value.items()
                if isinstance(entry, BaseModel)
                for one in _numbers(entry, f"{where}.{part}")
            ]
        elif {int, float} & _plain(field.annotation):
            found.append(where)
    return found


def _plain(annotation: Any) -> set[Any]:
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    arguments = get_args(annotation)
    return (
        set().union(*map(_plain, arguments)) if arguments and get_origin(annotation) is not list else {annotation} - {NoneType}
    )


NUMBERS = _numbers(make_recipe(FULL))


def test_the_numbers_of_every_section_are_found():
    sections = {key.rpartition(".")[0] for key in NUMBERS}
    assert {
        "",
        "data",
        "sample",
        "prepare",
        "prepare.ratings",
        "evaluation",
        "judge",
        "judge.second",
        "label.judge",
    } <= sections
    assert {"evaluation.benchmarks.gsm8k", "evaluation.lm_eval.ifeval", "judge.benchmarks.arena_hard"} <= sections
    assert {"spending", "spending.prices.m"} <= sections and len(NUMBERS) > 45


@pytest.mark.parametrize("value", ["true", "yes", "'1'", ".nan", ".inf", "1e999", "010", "[1:30]"])
@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_is_a_finite_number(key, value):
    with pytest.raises(RecipeError, match=rf"^{key}(\.0)? must be (a|valid) ") as error:
        make_recipe(FULL, [f"{key}={value}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [True, math.nan, math.inf, "8"])
@pytest.mark.parametrize("key", ["learning_rate", "lora_dropout", "max_steps", "global_batch_size"])
def test_the_training_section_takes_no_other_numbers_either(key, value):
    with pytest.raises(RecipeError, match=rf"^train\.{key} must be"):
        make_recipe({**FULL, "train": {key: value}})


@pytest.mark.parametrize("value", ["yes", "1", "'true'"])
@pytest.mark.parametrize(
    "key", ["data.streaming", "evaluation.cross_check", "judge.demonstration", "evaluation.lm_eval.ifeval.chat"]
)
def test_a_switch_is_true_or_false(key, value):
    with pytest.raises(RecipeError, match=rf"^{key} must be true or false, got "):
        make_recipe(FULL, [f"{key}={value}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.objective=bnff", r"^train\.objective must be one of"),
        ("train.objective=BNF", r"^train\.objective .* did you mean bnf\?"),
        ("train.objective={a: 1}", r"^train\.objective .* got \{'a': 1\}; write one word"),
        ("train.objective_options=5", r"^train\.objective_options must be a mapping"),
        ("train.learning_rate=-1", r"^train\.learning_rate must be positive"),
        ("train.seed=1", r"^train\.seed must not be set"),
        ("train.objective_options={beta: .inf}", r"^train\.objective_options\.beta must be a finite number"),
        ("label.judge={engine: openai}", r"^label\.judge\.model must name the judge"),
        ("judge.second={engine: openai}", r"^judge\.second\.model must name the judge"),
        ("judge.second={engine: transformers}", r"^judge\.second\.model_name_or_path must name a local judge"),
        ("judge.second.verdict=choice", r"^judge\.second\.verdict must be text or"),
        ("sample.prompts_per_round=65", r"^sample\.prompts_per_round must be at most"),
        ("sample.temperature=[]", r"^sample\.temperature must be 0 or more"),
        ("sample.temperature=[1, true]", r"^sample\.temperature\.1 must be a number, got true"),
        ("name=2026", r"^name must be text, got 2026; put it in quotes"),
        ("data.columns={prompt: 1}", r"^data\.columns\.prompt must be text, got 1"),
        ("evaluation=null", r"^evaluation must be a mapping of its keys, got nothing; leave it out"),
        ("prepare=null", r"^prepare must be a mapping of its keys, got nothing"),
        ("train=null", r"^train must come with data or sample, .* got data or sample without train; .* train: \{\}"),
        ("evaluation.benchmarks=null", r"^evaluation\.benchmarks must be a mapping .* got nothing"),
        ("evaluation.benchmarks=gsm8k", r"^evaluation\.benchmarks must be a list .* got 'gsm8k'; write \[gsm8k\]"),
        (
            "evaluation.benchmarks=[{gsm8k: {limit: 3}}, crux]",
            r"^evaluation\.benchmarks must be a list of names.* got \{'gsm8k': .*; write gsm8k: \{…\} without a dash",
        ),
        ("evaluation.benchmarks=[gsm8k, gsm8k]", r"^evaluation\.benchmarks must name each once, got gsm8k twice"),
        (
            "evaluation.benchmarks={mmlu-redux: {}, mmlu_redux: {limit: 1}}",
            r"benchmarks must name each once, got mmlu_redux twice",
        ),
        ("evaluation.lm_eval=[7]", r"^evaluation\.lm_eval must be a list of names.* got 7 as a name"),
        ("judge.benchmarks={7: {}}", r"^judge\.benchmarks\.7 must be a key of text"),
    ],
)
def test_a_mistake_is_one_message_that_begins_with_its_key(override, message):
    with pytest.raises(RecipeError, match=message) as error:
        make_recipe(FULL, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("raw", "key"),
    [({7: 1}, "7"), ({"train": {7: 1}}, r"train\.7"), ({"evaluation": {"lm_eval": {7: {}}}}, r"evaluation\.lm_eval")],
)
def test_keys_of_other_types_are_refused_where_no_yaml_was_read(raw, key):
    with pytest.raises(RecipeError, match=rf"^{key} must be a (key of text|list of names)"):
        make_recipe(FULL | raw)


def test_one_and_a_thousand_may_be_written_as_people_do():
    made = make_recipe(
        FULL, ["train.learning_rate=1e-5", "train.max_steps=1e3", "prepare.max_length=2_048", "prepare.mask_fraction=5e-1"]
    )
    assert (made.train["learning_rate"], made.train["max_steps"]) == (1e-5, 1000)
    assert (made.prepare.max_length, made.prepare.mask_fraction) == (2048, 0.5)


def test_learning_rates_in_a_file_need_no_point(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "model_name_or_path: org/m\ndata: {source: pairs, path: org/d}\ntrain: {learning_rate: 1e-5}\n"
    )
    assert load_recipe(str(tmp_path / "r.yaml")).train["learning_rate"] == 1e-5


def test_of_a_key_that_is_given_twice_the_later_value_counts():
    assert make_recipe(FULL, ["seed=1", "seed=2"]).seed == 2
    assert make_recipe(FULL, ["train.max-steps=1", "train.max_steps=2"]).train["max_steps"] == 2


def test_a_section_that_would_undo_a_setting_before_it_is_refused():
    with pytest.raises(
        RecipeError, match=r"^train must stand before train\.max_steps, which it would undo, got train=\{\} after it"
    ):
        make_recipe(FULL, ["train.max_steps=1", "train={}"])
    assert make_recipe(FULL, ["train={}", "train.max_steps=2"]).train["max_steps"] == 2


def test_an_override_of_what_an_anchor_names_changes_one_place(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "model_name_or_path: org/m\nevaluation: {benchmarks: {gsm8k: &items {source: sample}, crux: *items}}\n"
    )
    made = load_recipe(str(tmp_path / "r.yaml"), ["evaluation.benchmarks.gsm8k.limit=3"])
    assert [one.limit for one in made.evaluation.benchmarks.values()] == [3, None]


def test_hyphens_stay_in_names_that_are_not_the_projects():
    overrides = ["spending.prices.gpt-x.input=1", "spending.prices.gpt-x.output=2", "evaluation.lm-eval.arc-x.limit=3"]
    made = make_recipe(FULL, overrides)
    assert made.spending.prices["gpt-x"].output == 2 and made.evaluation.lm_eval["arc-x"].limit == 3
    listed = {**MINIMAL, "evaluation": {"benchmarks": ["mmlu-redux"]}}
    assert make_recipe(listed, ["evaluation.benchmarks.mmlu-redux.limit=7"]).evaluation.benchmarks["mmlu_redux"].limit == 7


def test_a_resolved_recipe_reads_the_same():
    made = make_recipe(FULL)
    assert make_recipe(made.model_dump()) == made and Recipe.model_validate_json(made.model_dump_json()) == made
