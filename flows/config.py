"""The recipe: what a run is, as pydantic models. A recipe states only what differs from the defaults; unknown keys are refused.

Paths in a recipe are looked up from the working folder first, then from the project's root.
"""

from __future__ import annotations

import copy
import datetime
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.annotated_handlers import GetJsonSchemaHandler

from bnf.chat_template import DEFAULT_DATE, is_day
from bnf.config import TrainConfig
from flows.errors import RecipeError
from flows.sections import (
    Benchmark,
    Data,
    Evaluation,
    Judge,
    JudgedBenchmark,
    JudgeModel,
    Label,
    LmEvalTask,
    Prepare,
    Ratings,
    Sample,
    Section,
    Spending,
    TokenPrice,
)
from tasks.keys import ROOT

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _TrainForm:
    """The JSON schema of bnf.config.TrainConfig, from which the Prefect UI makes a form; the values stay a plain mapping."""

    @staticmethod
    def __get_pydantic_json_schema__(core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = TypeAdapter(TrainConfig).json_schema()
        return {
            "type": "object",
            "title": "Train",
            "properties": {name: {**value, "title": name} for name, value in schema["properties"].items() if name != "seed"},
        }


class _OneListOfChoices:
    """The JSON schema of alternatives within alternatives as one list: the Prefect UI has no name for an inner one."""

    @staticmethod
    def __get_pydantic_json_schema__(core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        schema["anyOf"] = [choice for entry in schema["anyOf"] for choice in entry.get("oneOf", [entry])]
        return schema


def _one_or_mixture(value: Any) -> str:
    return "mixture" if isinstance(value, list) else "one"


# Told apart by their form, so that an error speaks of one of them only.
OneOrMixture = Annotated[
    Annotated[Data, Tag("one")] | Annotated[list[Data], Tag("mixture"), Field(min_length=1, title="mixture")],
    Discriminator(_one_or_mixture),
]


class Recipe(Section):
    """One run. `data` and `sample` are two ways to preferences, `sample.offline_mix` joins them; with neither, the model is evaluated
    as it is.
    """

    name: str = Field("recipe", description="runs are called after it; of a recipe file, the file's name")
    model_name_or_path: str = Field(description="a folder with safetensors and a chat template, or a hub id")
    revision: str | None = Field(None, description="of a hub id")
    seed: int = Field(0, ge=0, description="of sampling, preparation and training")
    date: str = Field(DEFAULT_DATE, description="the day that chat templates are told it is, wherever they ask")
    data: Annotated[OneOrMixture | None, _OneListOfChoices] = Field(
        None, description="preferences from outside: one source, or a mixture"
    )
    sample: Sample | None = Field(None, description="preferences from the policy's own samples")
    label: Label | None = Field(None, description="what decides which samples are preferred; with sample alone")
    prepare: Prepare = Field(Prepare(), description="from records to prompt groups")
    train: Annotated[dict[str, Any], _TrainForm] | None = Field(
        None, description="the objective and how it is trained (bnf.config.TrainConfig); with data or sample alone"
    )
    evaluation: Evaluation = Field(
        default_factory=Evaluation, description="benchmarks, of the base and the aligned model alike"
    )
    judge: Judge | None = Field(None, description="who judges answers to open questions, and which")
    spending: Spending = Field(Spending(), description="what the run may pay to endpoints")

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(
                f"name must be letters, digits, '.', '_' and '-', a letter or digit first, 100 at most, as runs' folders are called "
                f"after it, got {value!r}; write name={_as_name(value)}"
            )
        return value

    @field_validator("date", mode="before")
    @classmethod
    def _is_a_day(cls, value: Any) -> str:
        # YAML has a type for days.
        text = value.isoformat() if type(value) is datetime.date else value
        if not isinstance(text, str) or not is_day(text):
            raise ValueError(f"date must be a day as YYYY-MM-DD, got {value!r}; write date={DEFAULT_DATE}")
        return text

    @field_validator("train")
    @classmethod
    def _valid_train(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and "seed" in value:
            raise ValueError("train.seed must not be set, it is the recipe's `seed`; write seed=… at the top level")
        return value if value is None else {k: v for k, v in TrainConfig.from_dict(value).to_dict().items() if k != "seed"}

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.sample and bool(self.data) != bool(self.sample.offline_mix):
            raise ValueError(
                f"data must stand beside sample where sample.offline_mix takes a share from it and nowhere else, got offline_mix "
                f"{self.sample.offline_mix:g} {'with' if self.data else 'without'} data; set one or remove the other"
            )
        if (self.train is None) != (self.data is None and self.sample is None):
            raise ValueError("train must come with data or sample, and they with train; add the section that is missing")
        weights = [source.weight for source in self.sources()]
        if None in weights and any(weights):
            raise ValueError(
                f"data.weight must be set for every source of a mixture or for none, got {weights}; set the others"
            )
        if self.sample and not self.label:
            raise ValueError("label must say how samples are labelled, got none; add `label: {labeler: verifier}`")
        return self

    def sources(self) -> list[Data]:
        """The sources of `data`: of a mixture all of them."""
        return self.data if isinstance(self.data, list) else [self.data] if self.data else []

    def train_config(self) -> TrainConfig:
        """The training's settings, of every round alike."""
        assert self.train is not None
        epochs = self.sample.epochs_per_round if self.sample else None
        given = {"num_train_epochs": epochs} if epochs is not None else {}
        return TrainConfig.from_dict({**self.train, **given, "seed": self.seed})


def _as_name(text: str) -> str:
    """The nearest name of a recipe to any text."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:100] or "recipe"


def find_path(path: str) -> Path:
    """A path as a recipe or command line gives it: from the working folder, else from the project's root.

    Raises:
        RecipeError: where neither has it.
    """
    for base in (Path.cwd(), ROOT):
        if (base / path).exists():
            return (base / path).resolve()
    places = " or ".join(dict.fromkeys((str(Path.cwd()), str(ROOT))))
    raise RecipeError(f"{path} must exist, got no such file or folder in {places}; check the path")


def load_recipe(path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file with `key=value` overrides applied.

    Raises:
        RecipeError: naming the key, the rule, the value and the remedy.
    """
    file = find_path(path)
    if file.is_dir():
        raise RecipeError(f"RECIPE must be a YAML file, got the folder {file}; the project's own lie in flows/recipes")
    try:
        raw = yaml.safe_load(file.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} must be YAML, got {error}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path} must be a mapping of recipe keys, got {type(raw).__name__}; see docs/recipes.md")
    raw.setdefault("name", _as_name(file.stem))
    return make_recipe(raw, overrides)


def make_recipe(raw: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from plain values, with `key=value` overrides applied. Raises RecipeError like `load_recipe`."""
    merged = apply_overrides(raw, overrides)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(entry) for entry in error.errors())) from None


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe's values with dotted `key=value` settings put in; values are YAML."""
    merged: dict[str, Any] = copy.deepcopy(dict(raw))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"overrides must be key=value, got {override!r}; write e.g. train.learning_rate=2e-5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"{key} must have a YAML value, got {text!r} ({error})") from error
        if isinstance(value, str):
            value = _number(value)
        *parents, last = key.replace("-", "_").split(".")
        place = merged
        for parent in parents:
            if isinstance(place.get(parent), list):
                if any(isinstance(entry, dict) for entry in place[parent]):
                    raise RecipeError(
                        f"{key} must name one of several, got a list of {len(place[parent])} in {parent}; edit the recipe"
                    )
                place[parent] = {name: {} for name in place[parent]}
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
            if not isinstance(place, dict):
                raise RecipeError(f"{key} must name a key of the recipe, got one inside {parent}, which is {place!r}")
        place[last] = value
    return merged


def _number(text: str) -> str | float:
    """YAML reads 2e-5 as a string; people mean the number."""
    try:
        return float(text) if "e" in text.lower() else text
    except ValueError:
        return text


def _explain(error: Any) -> str:
    """One validation error as a message that names the key, the rule, the value and the remedy."""
    location = [str(part) for part in error["loc"]]
    if location[:1] == ["data"]:
        # `one` or `mixture` says which form the value has, and is no key.
        del location[1:2]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = list(_section(location[:-1]).model_fields)
        nearest = difflib.get_close_matches(location[-1], known, n=1)
        remedy = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
        return f"{key} must be a key of the recipe, got an unknown one; {remedy}"
    if error["type"] == "value_error":
        # The project's own validators say all of it; pydantic's prefix adds nothing.
        return str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{key} must be given, got nothing; add it to the recipe or write {key}=…"
    return f"{key} must be valid ({error['msg']}), got {error['input']!r}"


def _section(location: Sequence[str]) -> type[BaseModel]:
    sections: dict[str, type[BaseModel]] = {
        "data": Data,
        "sample": Sample,
        "label": Label,
        "prepare": Prepare,
        "evaluation": Evaluation,
        "judge": Judge,
        "spending": Spending,
    }
    if "benchmarks" in location:
        return JudgedBenchmark if location[0] == "judge" else Benchmark
    if location[-1:] == ["second"] or location == ["label", "judge"]:
        return JudgeModel
    if "prices" in location:
        return TokenPrice
    if location[:2] == ["prepare", "ratings"]:
        return Ratings
    if "lm_eval" in location:
        return LmEvalTask
    return sections[location[0]] if location else Recipe
