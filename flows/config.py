"""The recipe: what a run is, as pydantic models. A recipe states only what differs from the defaults; unknown keys are refused.

Paths in a recipe are looked up from the working folder first, then from the project's root.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.annotated_handlers import GetJsonSchemaHandler

from bnf.config import TrainConfig
from flows.errors import RecipeError
from tasks.keys import ROOT

EngineName = Literal["vllm", "transformers", "openai"]
ENGINE_DEFAULT = "left out: vLLM where it is installed, else transformers"


def local_engine() -> Literal["vllm", "transformers"]:
    """The engine of this machine: vLLM where it is installed (macOS has no wheel of it)."""
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


class Section(BaseModel):
    # In the UI's form a field is called what a recipe calls it.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), field_title_generator=lambda name, _: name)


class Data(Section):
    """Preference data from outside."""

    source: str = Field(description="a file in data/sources")
    path: str = Field(description="the data, as a local file")


class Sample(Section):
    """The policy's own samples."""

    source: str = Field(description="a file in data/sources that gives prompts with a verifiable answer")
    num_prompts: int = Field(64, gt=0)
    samples_per_prompt: int = Field(8, gt=0)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(512, gt=0)
    engine: Literal["vllm", "transformers"] = Field(default_factory=local_engine, description=ENGINE_DEFAULT)


class Label(Section):
    """What decides which samples are preferred."""

    labeler: str = Field("verifier", description="a file in data/labelers")


class Prepare(Section):
    """From records to prompt groups."""

    max_preferred: int | None = Field(None, gt=0, description="completions kept per prompt; None keeps all")
    max_dispreferred: int | None = Field(None, gt=0)
    mask_fraction: float = Field(0.0, ge=0, le=1, description="share of pairs of which one side is kept")
    pairing: Literal["none", "best_worst", "all"] = "none"
    max_length: int = Field(2048, gt=0, description="prompt and completion, in tokens")
    max_prompt_length: int = Field(1800, gt=0)
    truncation: Literal["drop", "raise"] = "drop"
    max_dropped_share: float = Field(0.5, ge=0, le=1, description="the stage fails when more rows than this are lost")


class Benchmark(Section):
    """Which items of a benchmark."""

    source: str | None = Field(None, description="None: its hub id; `sample`: the project's own items; else a local file")
    limit: int | None = Field(None, gt=0, description="the first so many items")


class Evaluation(Section):
    """Generation and scoring, of the base and the aligned model alike."""

    engine: EngineName = Field(default_factory=local_engine, description=ENGINE_DEFAULT)
    max_new_tokens: int | None = Field(None, gt=0, description="upper limit; each benchmark's protocol has its own as well")
    base_url: str | None = Field(None, description="engine openai: the endpoint")
    model: str | None = Field(None, description="engine openai: the model's name there")
    benchmarks: dict[str, Benchmark] = Field(default_factory=dict)

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return _benchmark_mapping(value)


class Judge(Section):
    """Games between the aligned model's answers and the base model's."""

    model_name_or_path: str | None = Field(None, description="a local judge; None with engine openai")
    engine: EngineName = Field(default_factory=local_engine, description=ENGINE_DEFAULT)
    base_url: str | None = None
    model: str | None = None
    demonstration: bool = Field(False, description="flags the verdicts as meaningless: the judge is there to show the stage")
    max_new_tokens: int = Field(512, gt=0, description="length of the judged answers")
    benchmarks: dict[str, Benchmark]

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return _benchmark_mapping(value)

    @model_validator(mode="after")
    def _names_a_judge(self) -> Judge:
        if self.engine == "openai" and not self.model:
            raise ValueError("judge.model must name the judge at the endpoint, got none; set judge.model=…")
        if self.engine != "openai" and not self.model_name_or_path:
            raise ValueError("judge.model_name_or_path must name a local judge, got none; or set judge.engine=openai")
        return self


def _benchmark_mapping(value: Any) -> Any:
    """A list of names is the same as a mapping without settings, and `-` in a name the same as `_`."""
    if isinstance(value, list):
        value = {str(name): {} for name in value}
    return {name.replace("-", "_"): settings or {} for name, settings in value.items()} if isinstance(value, dict) else value


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


class Recipe(Section):
    """One run. `data` and `sample` are two ways to preferences; with neither, the model is evaluated as it is."""

    name: str = Field("recipe", description="runs are called after it; of a recipe file, the file's name")
    model_name_or_path: str = Field(description="a folder with safetensors and a chat template, or a hub id")
    revision: str | None = Field(None, description="of a hub id")
    seed: int = Field(0, ge=0, description="of sampling, preparation and training")
    data: Data | None = None
    sample: Sample | None = None
    label: Label | None = None
    prepare: Prepare = Prepare()
    train: Annotated[dict[str, Any], _TrainForm] | None = Field(
        None, description="bnf.config.TrainConfig; with data or sample alone"
    )
    evaluation: Evaluation = Field(default_factory=Evaluation)
    judge: Judge | None = None

    @field_validator("train")
    @classmethod
    def _valid_train(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and "seed" in value:
            raise ValueError("train.seed must not be set, it is the recipe's `seed`; write seed=… at the top level")
        return value if value is None else {k: v for k, v in TrainConfig.from_dict(value).to_dict().items() if k != "seed"}

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.data and self.sample:
            raise ValueError("data and sample must not both be there; a recipe takes its preferences from one of them")
        if (self.train is None) != (self.data is None and self.sample is None):
            raise ValueError("train must come with data or sample, and they with train; add the section that is missing")
        if self.sample and not self.label:
            raise ValueError("label must say how samples are labelled, got none; add `label: {labeler: verifier}`")
        if self.judge and self.train is None:
            raise ValueError("judge must have an aligned model to judge, got a recipe without train; remove the judge section")
        return self

    def train_config(self) -> TrainConfig:
        assert self.train is not None
        return TrainConfig.from_dict({**self.train, "seed": self.seed})


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
    raw.setdefault("name", file.stem)
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
    }
    if "benchmarks" in location:
        return Benchmark
    return sections[location[0]] if location else Recipe
