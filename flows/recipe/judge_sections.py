"""The sections of a recipe on judges and labels: what each key means, its default and its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from bnf.plugins import load
from evaluation.engines import ENGINES, Feature, is_remote
from flows.recipe.benchmark_sections import AnsweredOnce, JudgedBenchmark, benchmarks_by_name
from flows.recipe.engine_options import (
    ENGINE_DEFAULT,
    GpuMemoryUtilization,
    JudgeEngineName,
    LoadsModel,
    MaxModelLen,
    NumReplicas,
    TensorParallelSize,
    local_engine,
)
from flows.recipe.paths import MayBeLocal, in_project
from flows.recipe.section import Section, TemplateValues, ThinkTokens

# How a judge can say its verdict, beside free text, by what that takes of its engine.
_SAYING: dict[str, Feature] = {"choice": "choices", "structured": "schema", "logprobs": "logprobs"}


class JudgeModel(LoadsModel):
    """A judge: a model that runs here, one at an endpoint, or a reward model."""

    model_name_or_path: Annotated[str | None, MayBeLocal()] = Field(
        None, description="a judge that runs here, or a reward model; left out with engine `openai`"
    )
    engine: JudgeEngineName = Field(default_factory=local_engine, description=ENGINE_DEFAULT)
    max_model_len: MaxModelLen = None
    tensor_parallel_size: TensorParallelSize = None
    gpu_memory_utilization: GpuMemoryUtilization = None
    num_replicas: NumReplicas = None
    base_url: str | None = Field(None, description="the endpoint; left out: OpenAI")
    model: str | None = Field(None, description="the judge's name at the endpoint; at Azure the deployment's")
    api: Literal["openai", "azure"] = Field("openai", description="`azure` for Azure: `base_url` is the resource's endpoint")
    api_version: str | None = Field(None, description="Azure's")
    api_key_variable: str | None = Field(
        None, description="the environment variable that holds the key; left out: `OPENAI_API_KEY` or `AZURE_OPENAI_API_KEY`"
    )
    api_key_block: str | None = Field(None, description="a Prefect Secret block that holds the key instead")
    max_concurrency: int = Field(8, gt=0, description="requests under way at once")
    max_retries: int = Field(6, ge=0, description="attempts after the first, where the reason may pass")
    timeout_s: float = Field(600.0, gt=0, description="seconds until an attempt counts as failed")
    verdict: Literal["text", "choice", "structured", "logprobs"] | None = Field(
        None,
        description=(
            "how a verdict is said: free text; a choice of the labels (engines that run here); structured output "
            "of a server; log-probabilities of two letters; left out: `text` at an endpoint, `choice` here"
        ),
    )
    max_judgment_tokens: int = Field(4096, gt=0, description="of a judge's reply")
    chat_template_kwargs: TemplateValues = Field(
        default_factory=dict,
        description="values of the variables of the judge's chat template, such as `{enable_thinking: false}`; an endpoint is sent them",
    )
    think_tokens: ThinkTokens = Field(
        None,
        description=(
            "the texts that begin and end the judge's own thought, from which no verdict is read; left out: those of its tokenizer, at an "
            "endpoint `[<think>, </think>]`"
        ),
    )

    @model_validator(mode="after")
    def _names_a_judge(self) -> Self:
        if is_remote(self.engine) and not self.model:
            raise ValueError("model must name the judge at the endpoint, got none; add it")
        if not is_remote(self.engine) and not self.model_name_or_path:
            raise ValueError("model_name_or_path must name a local judge, got none; add it, or set engine to openai")
        if self.think_tokens is not None and self.engine == "reward_model":
            raise ValueError(
                f"think_tokens must be left out with engine reward_model, which writes nothing, got {self.think_tokens}; remove it"
            )
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
        """The judge's name in results and keys, the same wherever the project or the model's folder lies."""
        folder = Path(in_project(str(self.model_name_or_path)))
        return self.model or (folder.name if folder.is_absolute() else str(folder))

    @property
    def said(self) -> str:
        """How the judge says its verdict: as `verdict` asks, or as its engine does by default."""
        if self.engine == "reward_model":
            return "reward"
        return self.verdict or ("choice" if "choice" in self._possible_verdicts() else "text")

    @property
    def key_variable(self) -> str:
        return self.api_key_variable or {"openai": "OPENAI_API_KEY", "azure": "AZURE_OPENAI_API_KEY"}[self.api]


class Label(Section):
    """What decides which samples are preferred."""

    labeler: str = Field(
        "verifier",
        description=(
            "a file in `data/labelers`: `verifier` asks the benchmark's scorer, `judge` a language model, "
            "`reward_model` a reward model; `ratings` were made elsewhere"
        ),
    )
    path: Annotated[str | None, MayBeLocal()] = Field(
        None, description="labeler `ratings`: a file of `id`, `completion`, `rating`"
    )
    judge: JudgeModel | None = Field(
        None,
        description=(
            "of the labelers `judge` and `reward_model`: the model, with the keys of `judge` from "
            "`model_name_or_path` to `think_tokens`"
        ),
    )


class Judge(JudgeModel, AnsweredOnce):
    """A judge and its benchmarks: the aligned model's answers against the base model's, or every model's against recorded answers or on
    a scale.
    """

    demonstration: bool = Field(
        False, description="flags the verdicts as meaningless wherever they stand: the judge is there to show the stage"
    )
    max_new_tokens: int | None = Field(
        None,
        gt=0,
        description=(
            "the most tokens of a judged answer, its thought included, up to each benchmark's own limit; left out: that limit, of "
            "Arena-Hard v2.0 8196, which can be raised to 32000 for models that think"
        ),
    )
    orders: Literal["one", "both"] = Field(
        "both", description="of two answers: both orders, or one, which a question's id fixes"
    )
    second: JudgeModel | None = Field(
        None,
        description=(
            "another judge of the same answers, with the keys from `model_name_or_path` to "
            "`think_tokens`: Cohen's κ with the first"
        ),
    )
    benchmarks: Annotated[dict[str, JudgedBenchmark], BeforeValidator(benchmarks_by_name)] = Field(
        default_factory=dict,
        description="judged question sets in `evaluation/benchmarks`: a list of names, or a mapping of names to settings",
    )
