"""The recipe's sections, as pydantic models: what each key means, its default and its bounds. docs/recipes.md says it in prose."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag, field_validator, model_validator
from pydantic_core import CoreSchema, core_schema

from bnf.plugins import load, names
from evaluation.engines import ENGINES, Feature, is_remote
from flows.recipe.paths import MayBeLocal, in_project

ENGINE_DEFAULT = "left out: vLLM where it is installed, else transformers"
# How a judge can say its verdict, beside free text, by what that takes of its engine.
_SAYING: dict[str, Feature] = {"choice": "choices", "structured": "schema", "logprobs": "logprobs"}


@dataclass(frozen=True)
class OneOf:
    """Marks a text as one of these names."""

    names: Sequence[str]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))


# The local ones first, as in `local_engine`.
_ENGINES = sorted(names(ENGINES), key=lambda name: (is_remote(name), name != "vllm", name))
EngineName = Annotated[str, OneOf(_ENGINES)]
LocalEngineName = Annotated[str, OneOf([name for name in _ENGINES if not is_remote(name)])]
JudgeEngineName = Annotated[str, OneOf([*_ENGINES, "reward_model"])]


def local_engine() -> str:
    """The engine of this machine: vLLM where it is installed (macOS has no wheel of it)."""
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


class Section(BaseModel):
    """A part of the recipe. Its validators' messages begin with `must` where they speak of their field, and with a key of their
    section elsewhere; `flows.recipe.config` puts what stands above before it.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        # Numbers, texts and switches are such: true is no number, "8" neither, and no setting can be infinite.
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        # In the UI's form a field is called what a recipe calls it.
        field_title_generator=lambda name, _: name,
    )


# A tag in brackets says which form a value has, and is no key: an error speaks of one form only.
ONE, SEVERAL = "(one)", "(several)"


def one_or_several(value: Any) -> str:
    return SEVERAL if isinstance(value, list) else ONE


class Data(Section):
    """Preference data from outside; a list of these is a mixture."""

    source: str = Field(description="a file in data/sources")
    path: Annotated[str, MayBeLocal()] = Field(description="the data: a local file or folder, an fsspec URL, or a hub id")
    columns: dict[str, str] = Field(default_factory=dict, description="the source's roles → what the data calls them")
    weight: float | None = Field(None, gt=0, description="in a mixture: its part of the prompts, in relation to the others'")
    split: str | None = Field(None, description="of a hub's set (None: train) or a folder with several, by its whole name")
    config: str | None = Field(None, description="of a hub's set")
    revision: str | None = Field(None, description="of a hub's set")
    streaming: bool = Field(False, description="read a hub's set without keeping it on disk")


class Sample(Section):
    """The policy's own samples, in one round or in several."""

    source: str = Field(description="a file in data/sources: its prompts are completed")
    path: Annotated[str | None, MayBeLocal()] = Field(
        None, description="where the prompts lie, as data.path; None: the source's own, or its hub id"
    )
    split: str | None = Field(None, description="of a hub's set (None: train) or a folder with several, by its whole name")
    config: str | None = Field(None, description="of a hub's set")
    revision: str | None = Field(None, description="of a hub's set")
    num_prompts: int = Field(64, gt=0, description="the pool of prompts: the source's first so many")
    held_out_prompts: int = Field(0, ge=0, description="the next so many are sampled and scored, and not trained on")
    rounds: int = Field(1, gt=0, description="trainings, each on samples of the policy before it")
    prompts_per_round: int | None = Field(None, gt=0, description="taken from the pool in turn; None: all of it in every round")
    samples_per_prompt: int = Field(8, gt=0, description="completions sampled of each prompt")
    temperature: Annotated[Annotated[float, Tag(ONE)] | Annotated[list[float], Tag(SEVERAL)], Discriminator(one_or_several)] = (
        Field(0.7, description="several share a prompt's samples out among them")
    )
    top_p: float = Field(1.0, gt=0, le=1, description="sampled from the likeliest tokens of this share; 1: from all")
    max_new_tokens: int = Field(512, gt=0, description="of a sample; one that reaches it is cut off")
    epochs_per_round: float | None = Field(None, gt=0, description="passes over a round's data; None: train.num_train_epochs")
    offline_mix: float = Field(0.0, ge=0, lt=1, description="share of a round's prompts that `data` gives")
    reference: Literal["fixed", "each_round"] = Field(
        "fixed", description="the first round's model is the reference of all, or each round's own start"
    )
    engine: LocalEngineName = Field(default_factory=local_engine, description=ENGINE_DEFAULT)

    @model_validator(mode="after")
    def _fits(self) -> Sample:
        given = self.temperatures()
        if not given or min(given) < 0 or len(given) > self.samples_per_prompt:
            raise ValueError(
                "temperature must be 0 or more, and not more of them than sample.samples_per_prompt "
                f"({self.samples_per_prompt}), got {self.temperature}; correct it"
            )
        if (self.prompts_per_round or 0) > self.num_prompts:
            raise ValueError(
                f"prompts_per_round must be at most sample.num_prompts ({self.num_prompts}), got {self.prompts_per_round}; "
                "raise the latter"
            )
        if self.config is not None and self.path is None:
            raise ValueError(
                f"config must come with sample.path, the hub id that has it, got {self.config!r} alone; add the path"
            )
        return self

    def place(self) -> dict[str, str]:
        """Of the prompts' place, what a path alone does not say."""
        given = {"split": self.split, "config": self.config, "revision": self.revision}
        return {name: value for name, value in given.items() if value is not None}

    def temperatures(self) -> list[float]:
        return self.temperature if isinstance(self.temperature, list) else [self.temperature]


class Ratings(Section):
    """How ratings become labels."""

    threshold: float | None = Field(None, description="preferred from here on; None: by each prompt's own ratings")
    margin: float = Field(0.0, ge=0, description="around the threshold: the middle")
    quantile: float = Field(
        0.5, gt=0, le=0.5, description="without a threshold: the share at either end of a prompt's completions"
    )
    middle: Literal["drop", "keep"] = Field(
        "drop", description="what lies between: left out, or kept by its side of the threshold or the median"
    )


class Prepare(Section):
    """From records to prompt groups."""

    max_preferred: int | None = Field(None, gt=0, description="unpaired completions kept per prompt; None keeps all")
    max_dispreferred: int | None = Field(None, gt=0, description="as max_preferred")
    mask_fraction: float = Field(
        0.0, ge=0, le=1, description="share of pairs of which one side is kept, half of them the chosen"
    )
    mask_to_chosen: float = Field(0.0, ge=0, le=1, description="instead: share of pairs that keep the chosen side alone")
    mask_to_rejected: float = Field(0.0, ge=0, le=1, description="and share of pairs that keep the rejected side alone")
    pairing: Literal["none", "best_worst", "all"] = Field(
        "none",
        description="which completions are compared: none, or a row's own pairs and, of samples and ratings, best_worst or all",
    )
    keep: Literal["all", "best_worst", "balanced"] = Field(
        "all", description="of a prompt's unpaired completions: all, the best and the worst, or as many of each label"
    )
    min_reward_gap: float = Field(0.0, ge=0, description="prompts whose best and worst rewards are nearer are left out")
    ties: Literal["drop", "both_preferred", "both_dispreferred"] = Field("drop", description="votes without a winner")
    ratings: Ratings = Field(Ratings(), description="how ratings become labels")
    dev_fraction: float = Field(0.0, ge=0, lt=1, description="share of prompts put aside for choosing settings")
    flip_fraction: float = Field(0.0, ge=0, le=1, description="noise: share of verdicts turned round")
    contradict_fraction: float = Field(0.0, ge=0, le=1, description="noise: share of verdicts repeated the other way round")
    completion_span: Literal["turn", "simpo"] = Field("turn", description="which tokens are the completion's")
    changed_completions: Literal["refuse", "as_rendered"] = Field(
        "refuse", description="completions that the chat template doesn't write whole: left out, or taken as it writes them"
    )
    max_length: int = Field(2048, gt=0, description="prompt and completion, in tokens")
    max_prompt_length: int = Field(1800, gt=0, description="in tokens, with the chat template")
    truncation: Literal["drop", "raise", "truncate_prompt", "truncate_completion"] = Field(
        "drop", description="what is too long: left out, an error, or cut at the prompt's begin or the completion's end"
    )
    max_dropped_share: float = Field(0.5, ge=0, le=1, description="the stage fails when more rows than this are lost")
    num_proc: int | None = Field(None, gt=0, description="processes that tokenize; None: one per core")

    @model_validator(mode="after")
    def _one_way_to_mask(self) -> Prepare:
        sides = self.mask_to_chosen + self.mask_to_rejected
        if sides > 1 or (sides and self.mask_fraction):
            raise ValueError(
                "mask_to_chosen and mask_to_rejected must sum to 1 at most and stand without mask_fraction, got "
                f"{self.mask_to_chosen}, {self.mask_to_rejected} and {self.mask_fraction}; lower or remove one"
            )
        return self

    @property
    def masked_share(self) -> float:
        """The share of pairs that lose a side."""
        return self.mask_fraction + self.mask_to_chosen + self.mask_to_rejected


class Benchmark(Section):
    """Which items of a benchmark."""

    source: Annotated[str | None, MayBeLocal(other_words=("sample",))] = Field(
        None, description="None: its hub id; `sample`: the project's own items; else a local file"
    )
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
    benchmarks: dict[str, Benchmark] = Field(default_factory=dict, description="files in evaluation/benchmarks, by name")
    cross_check: bool = Field(False, description="lm-eval's own reading of the same completions beside each score")
    lm_eval: dict[str, LmEvalTask] = Field(default_factory=dict, description="lm-eval's tasks, by name")
    lm_eval_include_path: Annotated[str | None, MayBeLocal()] = Field(
        None, description="a folder of lm-eval task definitions of one's own"
    )

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return _benchmarks(value)

    @field_validator("lm_eval", mode="before")
    @classmethod
    def _task_names_alone(cls, value: Any) -> Any:
        return _by_name(value)

    @model_validator(mode="after")
    def _weighs_text(self) -> Evaluation:
        if self.lm_eval and is_remote(self.engine):
            raise ValueError(
                f"lm_eval must run on an engine that loads the model itself, got {self.engine}; "
                "set evaluation.engine=vllm or transformers, or leave lm_eval out"
            )
        return self


class TokenPrice(Section):
    """US dollars per million tokens."""

    input: float = Field(ge=0, description="of prompts")
    output: float = Field(ge=0, description="of completions")


class Spending(Section):
    """What a run may pay to endpoints, for answers, judgments and labels together."""

    max_usd: float | None = Field(None, gt=0, description="no call is made that could exceed it; None: no cap")
    prices: dict[str, TokenPrice] = Field(default_factory=dict, description="by the model's name at the endpoint")


class JudgedBenchmark(Benchmark):
    """Which questions, in which forms, against whose answers."""

    forms: list[str] | None = Field(None, description="files in evaluation/judges; None: the benchmark's first")
    baseline: Annotated[str | None, MayBeLocal()] = Field(
        None, description="a file of recorded answers; None: the base model's"
    )
    references: Annotated[str | None, MayBeLocal()] = Field(None, description="mt_bench: a file of reference answers")


class JudgeModel(Section):
    """A judge: a model that runs here, one at an endpoint, or a reward model."""

    model_name_or_path: Annotated[str | None, MayBeLocal()] = Field(
        None, description="a local judge or reward model; None with engine openai"
    )
    engine: JudgeEngineName = Field(default_factory=local_engine, description=ENGINE_DEFAULT)
    base_url: str | None = Field(None, description="the endpoint; None is OpenAI")
    model: str | None = Field(None, description="the judge's name at the endpoint; at Azure the deployment")
    api: Literal["openai", "azure"] = Field("openai", description="how the endpoint is spoken to")
    api_version: str | None = Field(None, description="of Azure")
    api_key_variable: str | None = Field(None, description="the variable that holds the key; None: the API's usual one")
    api_key_block: str | None = Field(None, description="a Prefect Secret block that holds the key instead")
    max_concurrency: int = Field(8, gt=0, description="requests under way at once")
    max_retries: int = Field(6, ge=0, description="of a request that failed for a reason that may pass")
    timeout_s: float = Field(600.0, gt=0, description="seconds until a request counts as failed")
    verdict: Literal["text", "choice", "structured", "logprobs"] | None = Field(
        None, description="how a verdict is said; None: `text` at an endpoint, `choice` here"
    )
    max_judgment_tokens: int = Field(4096, gt=0, description="of a judge's reply")

    @model_validator(mode="after")
    def _names_a_judge(self) -> Self:
        if is_remote(self.engine) and not self.model:
            raise ValueError("model must name the judge at the endpoint, got none; add it")
        if not is_remote(self.engine) and not self.model_name_or_path:
            raise ValueError("model_name_or_path must name a local judge, got none; add it, or set engine to openai")
        possible = self._possible_verdicts()
        if self.verdict is not None and self.verdict not in possible:
            raise ValueError(
                f"verdict must be {' or '.join(possible) or 'left out'} with engine {self.engine}, got {self.verdict}; "
                "change one of them"
            )
        return self

    def _possible_verdicts(self) -> list[str]:
        if self.engine == "reward_model":
            return []
        supported = load(ENGINES, self.engine).SUPPORTS
        return ["text", *(verdict for verdict, feature in _SAYING.items() if feature in supported)]

    @property
    def name(self) -> str:
        """The judge as it is called in results and keys, wherever the project or the model's folder lies."""
        folder = Path(in_project(str(self.model_name_or_path)))
        return self.model or (folder.name if folder.is_absolute() else str(folder))

    @property
    def said(self) -> str:
        """How its verdicts are said."""
        if self.engine == "reward_model":
            return "reward"
        return self.verdict or ("choice" if "choice" in self._possible_verdicts() else "text")

    @property
    def key_variable(self) -> str:
        return self.api_key_variable or {"openai": "OPENAI_API_KEY", "azure": "AZURE_OPENAI_API_KEY"}[self.api]


class Label(Section):
    """What decides which samples are preferred."""

    labeler: str = Field("verifier", description="a file in data/labelers")
    path: Annotated[str | None, MayBeLocal()] = Field(None, description="labeler ratings: the file with the ratings")
    judge: JudgeModel | None = Field(None, description="of the labelers judge and reward_model")


class Judge(JudgeModel):
    """Answers judged: the aligned model's against the base model's, or every model's against recorded ones or on a scale."""

    demonstration: bool = Field(False, description="flags the verdicts as meaningless: the judge is there to show the stage")
    max_new_tokens: int | None = Field(
        None, gt=0, description="upper limit of the judged answers; each protocol has its own as well"
    )
    orders: Literal["one", "both"] = Field("both", description="games of two answers: in both orders, or in one by chance")
    second: JudgeModel | None = Field(None, description="another judge of the same answers, for their agreement")
    benchmarks: dict[str, JudgedBenchmark] = Field(default_factory=dict, description="files in evaluation/benchmarks, by name")

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return _benchmarks(value)


def _by_name(value: Any, as_called: Callable[[str], str] = lambda name: name) -> Any:
    """A list of names is the same as a mapping without settings."""
    if isinstance(value, str):
        raise ValueError(f"must be a list of names, or a mapping of names to settings, got {value!r}; write [{value}]")
    if not isinstance(value, list | dict):
        return value
    entries = [(name, {}) for name in value] if isinstance(value, list) else list(value.items())
    named: dict[Any, Any] = {}
    for given, settings in entries:
        if not isinstance(given, str):
            example = (
                f"; write {next(iter(given))}: {{…}} without a dash before it" if isinstance(given, dict) and given else ""
            )
            raise ValueError(f"must be a list of names, or a mapping of names to settings, got {given!r} as a name{example}")
        if as_called(given) in named:
            raise ValueError(f"must name each once, got {as_called(given)} twice; remove one")
        named[as_called(given)] = {} if settings is None else settings
    return named


def _benchmarks(value: Any) -> Any:
    """Benchmarks by name, where `-` is the same as `_`."""
    return _by_name(value, lambda name: name.replace("-", "_"))
