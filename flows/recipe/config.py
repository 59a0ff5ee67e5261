"""The recipe: what a run is, as pydantic models. A recipe states only what differs from the defaults; unknown keys are refused.

Paths in a recipe are looked up from the working folder first, then beside the recipe, then from the project's root.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import (
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from bnf.data.chat_template import DEFAULT_DATE, is_day
from bnf.plain_yaml import read
from bnf.training.config import TrainConfig
from data.reading.records import is_hub_id
from evaluation.engines import is_remote
from flows.errors import RecipeError
from flows.recipe.data_sections import Data, Prepare
from flows.recipe.judge_sections import Judge, JudgeModel, Label
from flows.recipe.messages import as_written, explain, of_training
from flows.recipe.overrides import apply_overrides
from flows.recipe.paths import MayBeLocal, find_path, located, refuse_passwords
from flows.recipe.ray_section import RayCluster
from flows.recipe.reference_section import Reference
from flows.recipe.section import ONE, SEVERAL, Section, TemplateValues, ThinkTokens, one_or_several
from flows.recipe.sections import Evaluation, Resources, Sample, Spending

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# The name that stands for the newest run. No recipe may have it.
LATEST = "latest"


class _TrainForm:
    """The JSON schema of bnf.training.config.TrainConfig, from which the Prefect UI makes a form; the values stay a plain mapping."""

    @staticmethod
    def __get_pydantic_json_schema__(core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = TypeAdapter(TrainConfig).json_schema()
        return {
            "type": "object",
            "title": "Train",
            "properties": {name: {**value, "title": name} for name, value in schema["properties"].items() if name != "seed"},
        }


class _OneListOfChoices:
    """The JSON schema of alternatives within alternatives as one list: the Prefect UI has no name for an inner one."""

    @staticmethod
    def __get_pydantic_json_schema__(core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        schema["anyOf"] = [choice for entry in schema["anyOf"] for choice in entry.get("oneOf", [entry])]
        return schema


OneOrMixture = Annotated[
    Annotated[Data, Tag(ONE)] | Annotated[list[Data], Tag(SEVERAL), Field(min_length=1, title="mixture")],
    Discriminator(one_or_several),
]


class Recipe(Section):
    """What a run is. Preferences come from `data`, from `sample`, or with `sample.offline_mix` from both; with neither, the model is
    evaluated as it is.
    """

    name: str = Field(
        "recipe", description="runs are called after it; left out: the file's name; not `latest`, which is the newest run"
    )
    model_name_or_path: Annotated[str, MayBeLocal()] = Field(
        description="a folder with safetensors and a chat template, or a hub id"
    )
    revision: str | None = Field(None, description="of a hub id: a branch, tag or commit")
    # NumPy and vLLM take no larger one.
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of sampling, preparation and training")
    date: str = Field(
        DEFAULT_DATE,
        description=(
            "the day that chat templates are told it is, wherever they ask; the default is what Llama 3's own "
            "name without being told"
        ),
    )
    system_prompt: str | None = Field(
        None,
        description=(
            "the system message of every conversation that has none of its own: in data, samples, evaluation and chat; left out: what the "
            "chat template writes by itself"
        ),
    )
    chat_template: Annotated[str | None, MayBeLocal()] = Field(
        None, description="a file with a Jinja chat template in the place of the model's own; a policy gets it too"
    )
    chat_template_kwargs: TemplateValues = Field(
        default_factory=dict,
        description=(
            "values of the chat template's variables, such as `{enable_thinking: false}`, for data, samples, training, evaluation and chat "
            "alike; a policy's own template gets them as its defaults"
        ),
    )
    think_tokens: ThinkTokens = Field(
        None,
        description=(
            "the texts that begin and end a model's thought, which is kept on record and taken off before answers are scored, judged or "
            "labelled; left out: those of the model's tokenizer, or `[<think>, </think>]`"
        ),
    )
    data: Annotated[OneOrMixture | None, _OneListOfChoices] = Field(
        None, description="preferences from outside: a source, or a list of them, which is a mixture"
    )
    sample: Sample | None = Field(None, description="preferences from the policy's own samples")
    label: Label | None = Field(None, description="what decides which samples are preferred; with `sample` alone")
    prepare: Prepare = Field(Prepare(), description="from records to prompt groups")
    train: Annotated[dict[str, object], _TrainForm] | None = Field(
        None, description="the objective and how it is trained; with `data` or `sample` alone"
    )
    reference: Reference = Field(
        Reference(),
        description="the model that the objective compares the policy with; left out: the one that training starts from",
    )
    evaluation: Evaluation = Field(
        default_factory=Evaluation, description="benchmarks, of the base and the aligned model alike"
    )
    judge: Judge | None = Field(None, description="who judges answers to open questions, and which")
    ray: RayCluster = Field(
        RayCluster(),
        description="where data are rendered, and where models load for sampling, generation, judging, reference passes and reward models",
    )
    spending: Spending = Field(Spending(), description="what the run may pay to endpoints")
    resources: Resources = Field(Resources(), description="what of this machine the run's tasks share; part of no key")

    # The folder of the recipe's file, where it comes from one.
    _beside: Path | None = PrivateAttr(None)

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(
                f"must be letters, digits, '.', '_' and '-', a letter or digit first, 100 at most, as runs' folders are called "
                f"after it, got {value!r}; write name={as_name(value)}"
            )
        if value == LATEST:
            raise ValueError(f"must be another name than {LATEST!r}, which means the newest run; write name={LATEST}-recipe")
        return value

    @field_validator("date", mode="before")
    @classmethod
    def _is_a_day(cls, value: object) -> str:
        # YAML has a type for days.
        text = value.isoformat() if type(value) is datetime.date else value
        if not isinstance(text, str) or not is_day(text):
            raise ValueError(f"must be a day as YYYY-MM-DD, got {as_written(value)}; write date={DEFAULT_DATE}")
        return text

    @field_validator("system_prompt")
    @classmethod
    def _says_something(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError(f"must hold text, got {value!r}; write some, or leave it out")
        return value

    @field_validator("train")
    @classmethod
    def _valid_train(cls, value: dict[str, object] | None) -> dict[str, object] | None:
        if value is None:
            return None
        if "seed" in value:
            raise ValueError("seed must not be set, it is the recipe's `seed`; write seed=… at the top level")
        _refuse_infinite(value)
        if isinstance(objective := value.get("objective"), str):
            # The name of one of the project's files.
            value = {**value, "objective": objective.replace("-", "_")}
        try:
            return {k: v for k, v in TrainConfig.from_dict(value).to_dict().items() if k != "seed"}
        except ValueError as error:
            # The library's messages name its own keys, one of them as a recipe does.
            raise ValueError(of_training(str(error), cls.model_fields)) from error

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        refuse_passwords(self)
        if self.sample and bool(self.data) != bool(self.sample.offline_mix):
            raise ValueError(
                f"data must stand beside sample where sample.offline_mix takes a share from it and nowhere else, got offline_mix "
                f"{self.sample.offline_mix:g} {'with' if self.data else 'without'} data; set one or remove the other"
            )
        if (self.train is None) != (self.data is None and self.sample is None):
            given, missing = ("train", "data or sample") if self.train is not None else ("data or sample", "train")
            hint = "; an empty section is written train: {}" if missing == "train" else ""
            raise ValueError(
                f"train must come with data or sample, and they with train, got {given} without {missing}; add the section that is "
                f"missing{hint}"
            )
        weights = [source.weight for source in self.sources()]
        if len(weights) == 1 and weights[0] is not None:
            raise ValueError(
                f"data.weight must be left out for one source, got {weights[0]:g}; remove it, or add another source"
            )
        if None in weights and any(weights):
            raise ValueError(
                f"data.weight must be set for every source of a mixture or for none, got {weights}; set the others"
            )
        if self.sample and not self.label:
            raise ValueError("label must say how samples are labelled, got none; add `label: {labeler: verifier}`")
        if self.label and not self.sample:
            raise ValueError("label must come with sample, whose completions it labels, got label without sample; remove it")
        for key, judge in self._judges():
            if judge.engine == "reward_model" and (judge.num_replicas or 1) > 1 and self.ray.address == "none":
                raise ValueError(
                    f"{key}.num_replicas must be 1 or left out with engine reward_model, whose replicas are on Ray, got "
                    f"{judge.num_replicas} without ray.address; set ray.address=local, or a cluster's"
                )
        if self.chat_template is not None and is_remote(self.evaluation.engine):
            raise ValueError(
                f"chat_template must be left out with evaluation.engine {self.evaluation.engine}, whose server has a template of its own, "
                f"got {self.chat_template}; give it to the server"
            )
        if self.train is None and self.evaluation.checkpoints:
            raise ValueError(
                f"evaluation.checkpoints must be left out where nothing is trained, got {self.evaluation.checkpoints}; leave it out"
            )
        if self.train is None and self.chosen_reference() is not None:
            raise ValueError("reference must be left out where nothing is trained, got one; remove it")
        if self.train is not None:
            self._check_read(TrainConfig.from_dict({**self.train, "seed": self.seed}))
        return self

    def find(self, key: str, path: str) -> Path:
        """The file or folder that a path of this recipe leads to. `key` is where the path stands. Raises RecipeError like `find_path`."""
        return find_path(path, key, self._beside)

    def _check_read(self, train: TrainConfig) -> None:
        """Refuse settings of the training that nothing reads because of what another section says."""
        epochs = self.sample.epochs_per_round if self.sample else None
        if epochs is not None and train.num_train_epochs not in (TrainConfig.num_train_epochs, epochs):
            raise ValueError(
                f"train.num_train_epochs must be left out beside sample.epochs_per_round ({epochs:g}), got {train.num_train_epochs:g}; "
                "set one of them"
            )
        if epochs is not None and train.max_steps > 0:
            raise ValueError(
                f"sample.epochs_per_round must be left out beside train.max_steps ({train.max_steps}), got {epochs:g}; set one of them"
            )
        if (chosen := self.chosen_reference()) is not None:
            chosen.check_read(train)
        if self.sample is not None:
            self.reference.check_rounds(self.sample)
        if not self.prepare.dev_fraction:
            try:
                self.train_config().check_unevaluated()
            except ValueError as error:
                raise ValueError(f"train.{error}") from error

    def chosen_reference(self) -> Reference | None:
        """The reference that the recipe chooses; None where it is the model that training starts from, as it is, whatever names it."""
        return self.reference.unless(self.model_name_or_path, self.revision)

    def _judges(self) -> list[tuple[str, JudgeModel]]:
        """Every judge, by its section."""
        second = self.judge.second if self.judge else None
        labels = self.label.judge if self.label else None
        named: list[tuple[str, JudgeModel | None]] = [("judge", self.judge), ("judge.second", second), ("label.judge", labels)]
        return [(key, judge) for key, judge in named if judge is not None]

    def sources(self) -> list[Data]:
        """All sources of `data`; an empty list where the recipe has no `data`."""
        return self.data if isinstance(self.data, list) else [self.data] if self.data else []

    def system_settings(self) -> dict[str, str]:
        """`system_prompt` as a stage's setting; empty where none is set, so that keys of recipes without one have no part for it."""
        return {"system_prompt": self.system_prompt} if self.system_prompt is not None else {}

    def thought_settings(self) -> dict[str, list[str]]:
        """`think_tokens` as a stage's setting; empty where they are the usual ones."""
        return {"think_tokens": self.think_tokens} if self.think_tokens is not None else {}

    def train_config(self) -> TrainConfig:
        """The settings of the training; every round has the same."""
        assert self.train is not None
        epochs = self.sample.epochs_per_round if self.sample else None
        given = {"num_train_epochs": epochs} if epochs is not None else {}
        return TrainConfig.from_dict({**self.train, **given, "seed": self.seed})


def as_name(text: str) -> str:
    """A name that a recipe may have, made from any text."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:100] or "recipe"


def load_recipe(path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file with `key=value` overrides applied and its paths made absolute, as `located` does.

    Raises:
        RecipeError: naming the key, the rule, the value and the remedy.
    """
    file = recipe_file(path)
    if file.is_dir():
        remedy = _of_model(path) if (file / "config.json").exists() else "the project's own lie in flows/recipes"
        raise RecipeError(f"RECIPE must be a YAML file, got the folder {file}; {remedy}")
    values = read_values(file, path)
    if "sweep" in values:
        raise RecipeError(f"RECIPE must be one run's, got the sweep {path}; run it with `bnf sweep`")
    return make_recipe({"name": as_name(file.stem), **values}, overrides, beside=file.parent)


def recipe_file(path: str) -> Path:
    """The file, or folder, that is named in a recipe's place.

    Raises:
        RecipeError: there is none.
    """
    try:
        return find_path(path)
    except RecipeError as error:
        if not is_hub_id(path) or path.endswith((".yaml", ".yml")):
            raise
        raise RecipeError(f"{error}; {_of_model(path)}") from None


def _of_model(name: str) -> str:
    return (
        f"a model alone is evaluated by `bnf evaluate {name}`, and `bnf plan flows/recipes/evaluate.yaml model_name_or_path={name}` says "
        "what that would do"
    )


def read_values(file: Path, name: str) -> dict[str, object]:
    """The keys and values of a recipe's file, not yet checked.

    Args:
        name: what messages call the file.

    Raises:
        RecipeError: it is no YAML, or no mapping.
    """
    try:
        values = read(file.read_bytes(), name)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if not isinstance(values, dict | None):
        raise RecipeError(f"{name} must be a mapping of recipe keys, got {type(values).__name__}; see docs/recipes.md")
    return values or {}


def make_recipe(raw: Mapping[str, object], overrides: Sequence[str] = (), *, beside: Path | None = None) -> Recipe:
    """A recipe from plain values, with `key=value` overrides applied. Raises RecipeError like `load_recipe`."""
    merged = apply_overrides(raw, overrides)
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        raise RecipeError("\n".join(explain(entry, Recipe) for entry in error.errors())) from None
    recipe._beside = beside
    return located(recipe, beside)


def _refuse_infinite(value: object, key: str = "") -> None:
    """Refuse a setting of the training that is infinite or not a number."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be a finite number, got {value}; correct it")
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        _refuse_infinite(entry, f"{key}.{name}" if key else str(name))
