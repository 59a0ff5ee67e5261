"""The recipe: what a run is, as pydantic models. A recipe states only what differs from the defaults; unknown keys are refused.

Paths in a recipe are looked up from the working folder first, then from the project's root.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.annotated_handlers import GetJsonSchemaHandler

from bnf.config import TrainConfig
from flows.errors import RecipeError
from tasks.keys import ROOT

EngineName = Literal["vllm", "transformers", "openai"]
ENGINE_DEFAULT = "left out: vLLM where it is installed, else transformers"
JudgeEngineName = Literal["vllm", "transformers", "openai", "reward_model"]
# How a judge can say its verdict, by engine.
VERDICTS = {
    "vllm": ("text", "choice", "logprobs"),
    "transformers": ("text", "choice"),
    "openai": ("text", "structured", "logprobs"),
    "reward_model": (),
}


def local_engine() -> Literal["vllm", "transformers"]:
    """The engine of this machine: vLLM where it is installed (macOS has no wheel of it)."""
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


class Section(BaseModel):
    # In the UI's form a field is called what a recipe calls it.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), field_title_generator=lambda name, _: name)


class Data(Section):
    """Preference data from outside; a list of these is a mixture."""

    source: str = Field(description="a file in data/sources")
    path: str = Field(description="the data: a local file or folder, an fsspec URL, or a hub id")
    columns: dict[str, str] = Field(default_factory=dict, description="the source's roles → what the data calls them")
    weight: float | None = Field(None, gt=0, description="in a mixture: its part of the prompts, in relation to the others'")
    split: str | None = Field(None, description="of a hub's set (None: train) or a folder with several")
    config: str | None = Field(None, description="of a hub's set")
    revision: str | None = Field(None, description="of a hub's set")
    streaming: bool = Field(False, description="read a hub's set without keeping it on disk")


class Sample(Section):
    """The policy's own samples."""

    source: str = Field(description="a file in data/sources that gives prompts with a verifiable answer")
    num_prompts: int = Field(64, gt=0)
    samples_per_prompt: int = Field(8, gt=0)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(512, gt=0)
    engine: Literal["vllm", "transformers"] = Field(default_factory=local_engine, description=ENGINE_DEFAULT)


class Ratings(Section):
    """How ratings become labels."""

    threshold: float | None = Field(None, description="preferred from here on; None: by each prompt's own ratings")
    margin: float = Field(0.0, ge=0, description="around the threshold: the middle")
    quantile: float = Field(
        0.5, gt=0, le=0.5, description="without a threshold: the share at either end of a prompt's completions"
    )
    middle: Literal["drop", "keep"] = "drop"


class Prepare(Section):
    """From records to prompt groups."""

    max_preferred: int | None = Field(None, gt=0, description="unpaired completions kept per prompt; None keeps all")
    max_dispreferred: int | None = Field(None, gt=0)
    mask_fraction: float = Field(
        0.0, ge=0, le=1, description="share of pairs of which one side is kept, half of them the chosen"
    )
    mask_to_chosen: float = Field(0.0, ge=0, le=1, description="instead: share of pairs that keep the chosen side alone")
    mask_to_rejected: float = Field(0.0, ge=0, le=1, description="and share of pairs that keep the rejected side alone")
    pairing: Literal["none", "best_worst", "all"] = "none"
    ties: Literal["drop", "both_preferred", "both_dispreferred"] = "drop"
    ratings: Ratings = Ratings()
    dev_fraction: float = Field(0.0, ge=0, lt=1, description="share of prompts put aside for choosing settings")
    flip_fraction: float = Field(0.0, ge=0, le=1, description="noise: share of verdicts turned round")
    contradict_fraction: float = Field(0.0, ge=0, le=1, description="noise: share of verdicts repeated the other way round")
    completion_span: Literal["turn", "simpo"] = Field("turn", description="which tokens are the completion's")
    max_length: int = Field(2048, gt=0, description="prompt and completion, in tokens")
    max_prompt_length: int = Field(1800, gt=0)
    truncation: Literal["drop", "raise", "truncate_prompt", "truncate_completion"] = "drop"
    max_dropped_share: float = Field(0.5, ge=0, le=1, description="the stage fails when more rows than this are lost")
    num_proc: int | None = Field(None, gt=0, description="processes that tokenize; None: one per core")

    @model_validator(mode="after")
    def _one_way_to_mask(self) -> Prepare:
        sides = self.mask_to_chosen + self.mask_to_rejected
        if sides > 1 or (sides and self.mask_fraction):
            raise ValueError(
                "prepare.mask_to_chosen and mask_to_rejected must sum to 1 at most and stand without mask_fraction, got "
                f"{self.mask_to_chosen}, {self.mask_to_rejected} and {self.mask_fraction}; lower or remove one"
            )
        return self

    @property
    def masked_share(self) -> float:
        """The share of pairs that lose a side."""
        return self.mask_fraction + self.mask_to_chosen + self.mask_to_rejected


class Benchmark(Section):
    """Which items of a benchmark."""

    source: str | None = Field(None, description="None: its hub id; `sample`: the project's own items; else a local file")
    limit: int | None = Field(None, gt=0, description="the first so many items")


class LmEvalTask(Section):
    """How one of lm-evaluation-harness's tasks is run."""

    num_fewshot: int | None = Field(None, ge=0, description="None: the task's own")
    limit: int | None = Field(None, gt=0, description="the first so many documents of each task")
    chat: bool = Field(False, description="through the model's chat template")


class Evaluation(Section):
    """Generation and scoring, of the base and the aligned model alike."""

    engine: EngineName = Field(default_factory=local_engine, description=ENGINE_DEFAULT)
    max_new_tokens: int | None = Field(None, gt=0, description="upper limit; each benchmark's protocol has its own as well")
    base_url: str | None = Field(None, description="engine openai: the endpoint")
    model: str | None = Field(None, description="engine openai: the model's name there")
    benchmarks: dict[str, Benchmark] = Field(default_factory=dict)
    cross_check: bool = Field(False, description="lm-eval's own reading of the same completions beside each score")
    lm_eval: dict[str, LmEvalTask] = Field(default_factory=dict, description="lm-eval's tasks, by name")
    lm_eval_include_path: str | None = Field(None, description="a folder of lm-eval task definitions of one's own")

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return _benchmark_mapping(value)

    @field_validator("lm_eval", mode="before")
    @classmethod
    def _task_names_alone(cls, value: Any) -> Any:
        if isinstance(value, list):
            value = {str(name): {} for name in value}
        return {name: settings or {} for name, settings in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _weighs_text(self) -> Evaluation:
        if self.lm_eval and self.engine == "openai":
            raise ValueError(
                "evaluation.lm_eval must run on an engine that loads the model itself, got openai; "
                "set evaluation.engine=vllm or transformers, or leave lm_eval out"
            )
        return self


class TokenPrice(Section):
    """US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Spending(Section):
    """What a run may pay to endpoints, for answers, judgments and labels together."""

    max_usd: float | None = Field(None, gt=0, description="no call is made that could exceed it; None: no cap")
    prices: dict[str, TokenPrice] = Field(default_factory=dict, description="by the model's name at the endpoint")


class JudgedBenchmark(Benchmark):
    """Which questions, in which forms, against whose answers."""

    forms: list[str] | None = Field(None, description="files in evaluation/judges; None: the benchmark's first")
    baseline: str | None = Field(None, description="a file of recorded answers; None: the base model's")
    references: str | None = Field(None, description="mt_bench: a file of reference answers")


class JudgeModel(Section):
    """A judge: a model that runs here, one at an endpoint, or a reward model."""

    model_name_or_path: str | None = Field(None, description="a local judge or reward model; None with engine openai")
    engine: JudgeEngineName = Field(default_factory=local_engine, description=ENGINE_DEFAULT)
    base_url: str | None = Field(None, description="the endpoint; None is OpenAI")
    model: str | None = Field(None, description="the judge's name at the endpoint; at Azure the deployment")
    api: Literal["openai", "azure"] = "openai"
    api_version: str | None = Field(None, description="of Azure")
    api_key_variable: str | None = Field(None, description="the variable that holds the key; None: the API's usual one")
    api_key_block: str | None = Field(None, description="a Prefect Secret block that holds the key instead")
    max_concurrency: int = Field(8, gt=0)
    max_retries: int = Field(6, ge=0)
    timeout_s: float = Field(600.0, gt=0)
    verdict: Literal["text", "choice", "structured", "logprobs"] | None = Field(
        None, description="how a verdict is said; None: `text` at an endpoint, `choice` here"
    )
    max_judgment_tokens: int = Field(4096, gt=0)

    @model_validator(mode="after")
    def _names_a_judge(self) -> Self:
        if self.engine == "openai" and not self.model:
            raise ValueError("judge.model must name the judge at the endpoint, got none; set judge.model=…")
        if self.engine != "openai" and not self.model_name_or_path:
            raise ValueError("judge.model_name_or_path must name a local judge, got none; or set judge.engine=openai")
        possible = VERDICTS[self.engine]
        if self.verdict is not None and self.verdict not in possible:
            raise ValueError(
                f"judge.verdict must be {' or '.join(possible) or 'left out'} with engine {self.engine}, got {self.verdict}; "
                "change one of them"
            )
        return self

    @property
    def name(self) -> str:
        """The judge as it is called in results."""
        return self.model or str(self.model_name_or_path)

    @property
    def said(self) -> str:
        """How its verdicts are said."""
        return self.verdict or {"openai": "text", "reward_model": "reward"}.get(self.engine, "choice")

    @property
    def key_variable(self) -> str:
        return self.api_key_variable or {"openai": "OPENAI_API_KEY", "azure": "AZURE_OPENAI_API_KEY"}[self.api]


class Label(Section):
    """What decides which samples are preferred."""

    labeler: str = Field("verifier", description="a file in data/labelers")
    path: str | None = Field(None, description="labeler ratings: the file with the ratings")
    judge: JudgeModel | None = Field(None, description="of the labelers judge and reward_model")


class Judge(JudgeModel):
    """Answers judged: the aligned model's against the base model's, or every model's against recorded ones or on a scale."""

    demonstration: bool = Field(False, description="flags the verdicts as meaningless: the judge is there to show the stage")
    max_new_tokens: int | None = Field(
        None, gt=0, description="upper limit of the judged answers; each protocol has its own as well"
    )
    orders: Literal["one", "both"] = Field("both", description="games of two answers: in both orders, or in one by chance")
    second: JudgeModel | None = Field(None, description="another judge of the same answers, for their agreement")
    benchmarks: dict[str, JudgedBenchmark] = Field(default_factory=dict)

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return _benchmark_mapping(value)


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


def _one_or_mixture(value: Any) -> str:
    return "mixture" if isinstance(value, list) else "one"


# Told apart by their form, so that an error speaks of one of them only.
OneOrMixture = Annotated[
    Annotated[Data, Tag("one")] | Annotated[list[Data], Tag("mixture"), Field(min_length=1)], Discriminator(_one_or_mixture)
]


class Recipe(Section):
    """One run. `data` and `sample` are two ways to preferences; with neither, the model is evaluated as it is."""

    name: str = Field("recipe", description="runs are called after it; of a recipe file, the file's name")
    model_name_or_path: str = Field(description="a folder with safetensors and a chat template, or a hub id")
    revision: str | None = Field(None, description="of a hub id")
    seed: int = Field(0, ge=0, description="of sampling, preparation and training")
    data: OneOrMixture | None = None
    sample: Sample | None = None
    label: Label | None = None
    prepare: Prepare = Prepare()
    train: Annotated[dict[str, Any], _TrainForm] | None = Field(
        None, description="bnf.config.TrainConfig; with data or sample alone"
    )
    evaluation: Evaluation = Field(default_factory=Evaluation)
    judge: Judge | None = None
    spending: Spending = Spending()

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
