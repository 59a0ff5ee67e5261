"""The sections of a recipe for samples, evaluation and resources: what each key means, its default and its bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from evaluation.engines import is_remote
from flows.recipe.benchmark_sections import (
    LmEvalTask,
    ScoredBenchmark,
    benchmarks_by_name,
    by_name,
)
from flows.recipe.engine_options import (
    ENGINE_DEFAULT,
    EngineName,
    GpuMemoryUtilization,
    LoadsModel,
    LocalEngineName,
    MaxModelLen,
    NumReplicas,
    TensorParallelSize,
    local_engine,
)
from flows.recipe.paths import MayBeLocal
from flows.recipe.section import ONE, SEVERAL, MaxThinkingTokens, Section, one_or_several


class Sample(LoadsModel):
    """The policy's own samples, in one round or in several."""

    source: str = Field(description="a file in `data/sources` that gives the prompts")
    path: Annotated[str | None, MayBeLocal()] = Field(
        None, description="where the prompts lie, as `data.path`; left out: the source's own, or its hub id"
    )
    split: str | None = Field(
        None, description="of a hub's set, left out: `train`; or of a folder with several, by its whole name"
    )
    config: str | None = Field(None, description="of a hub's set, as load_dataset takes it")
    revision: str | None = Field(None, description="of a hub's set, as load_dataset takes it")
    num_prompts: int = Field(64, gt=0, description="the pool of prompts: the source's first so many")
    held_out_prompts: int = Field(0, ge=0, description="the next so many: sampled and scored in every round, never trained on")
    rounds: int = Field(1, gt=0, description="trainings, each on samples of the policy before it")
    prompts_per_round: int | None = Field(
        None, gt=0, description="taken from the pool in turn; left out: all of it in every round"
    )
    samples_per_prompt: int = Field(8, gt=0, description="completions sampled of each prompt")
    temperature: Annotated[Annotated[float, Tag(ONE)] | Annotated[list[float], Tag(SEVERAL)], Discriminator(one_or_several)] = (
        Field(0.7, description="a prompt's samples are shared out among several")
    )
    top_p: float = Field(1.0, gt=0, le=1, description="sampled from the likeliest tokens of this share; 1 is all")
    max_new_tokens: int = Field(512, gt=0, description="of a sample; one that reaches it is cut off")
    epochs_per_round: float | None = Field(
        None, gt=0, description="passes over a round's data; left out: `train.num_train_epochs`"
    )
    offline_mix: float = Field(0.0, ge=0, lt=1, description="share of a round's prompts that `data` gives")
    reference: Literal["fixed", "each_round"] = Field(
        "fixed", description="of later rounds: the model that the first one started from, or each round's own start"
    )
    engine: LocalEngineName = Field(default_factory=local_engine, description=ENGINE_DEFAULT)
    max_model_len: MaxModelLen = None
    tensor_parallel_size: TensorParallelSize = None
    gpu_memory_utilization: GpuMemoryUtilization = None
    num_replicas: NumReplicas = None

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
        """What says where the prompts lie beside a path."""
        given = {"split": self.split, "config": self.config, "revision": self.revision}
        return {name: value for name, value in given.items() if value is not None}

    def temperatures(self) -> list[float]:
        return self.temperature if isinstance(self.temperature, list) else [self.temperature]


def _checkpoints(value: object) -> object:
    """`all`, or a list of steps, each once and in their order."""
    is_list = isinstance(value, list) and bool(value)
    steps = value if isinstance(value, list) else []
    whole = all(isinstance(step, int) and not isinstance(step, bool) and step > 0 for step in steps)
    if value is None or value == "all" or (is_list and whole):
        return sorted(set(steps)) if steps else value
    raise ValueError(f"must be all, or a list of steps of the training, got {value!r}; write all, or such as [100, 200]")


# How completions of benchmarks are drawn, and that of one greedy completion of each item.
GREEDY: dict[str, int | float] = {"num_samples": 1, "temperature": 0.0, "top_p": 1.0}
DRAWN = tuple(GREEDY)


class Evaluation(LoadsModel):
    """Generation and scoring, the same for the base and the aligned model."""

    engine: EngineName = Field(default_factory=local_engine, description=ENGINE_DEFAULT)
    max_model_len: MaxModelLen = None
    tensor_parallel_size: TensorParallelSize = None
    gpu_memory_utilization: GpuMemoryUtilization = None
    num_replicas: NumReplicas = None
    max_new_tokens: int | None = Field(None, gt=0, description="an upper limit beside each benchmark's own")
    max_thinking_tokens: MaxThinkingTokens = None
    num_samples: int = Field(
        1, gt=0, description="completions of each item of `benchmarks`; of several the accuracy is avg@k, with pass@k and maj@k"
    )
    temperature: float = Field(0.0, ge=0, description="of `benchmarks`; 0 is greedy, above it each sample has a fixed seed")
    top_p: float = Field(1.0, gt=0, le=1, description="sampled from the likeliest tokens of this share; 1 is all")
    base_url: str | None = Field(None, description="engine `openai`: the endpoint; its key comes from `OPENAI_API_KEY`")
    model: str | None = Field(None, description="engine `openai`: the model's name there")
    benchmarks: Annotated[dict[str, ScoredBenchmark], BeforeValidator(benchmarks_by_name)] = Field(
        default_factory=dict, description="files in `evaluation/benchmarks`: a list of names, or a mapping of names to settings"
    )
    checkpoints: Annotated[Literal["all"] | list[int] | None, BeforeValidator(_checkpoints)] = Field(
        None,
        description=(
            "policies of the training's way that `benchmarks` are run on too, judged ones and lm-eval's not: a list of steps, or `all` "
            "saves (`train.save_steps`, a share); the training keeps their weights"
        ),
    )
    cross_check: bool = Field(
        False,
        description="lm-eval's own reading of the same completions beside each score, with every item on which it differs",
    )
    lm_eval: Annotated[dict[str, LmEvalTask], BeforeValidator(by_name)] = Field(
        default_factory=dict, description="tasks, groups or tags of lm-eval: a list of names, or a mapping of names to settings"
    )
    lm_eval_include_path: Annotated[str | None, MayBeLocal()] = Field(
        None, description="a folder of lm-eval task definitions of one's own, which come before lm-eval's"
    )

    def sampling(self, benchmark: ScoredBenchmark) -> dict[str, int | float] | None:
        """How a benchmark's completions are drawn: `num_samples`, `temperature`, `top_p`; None for one greedy completion of each item."""
        drawn = {name: getattr(self, name) if (own := getattr(benchmark, name)) is None else own for name in DRAWN}
        return None if drawn == GREEDY else drawn

    @model_validator(mode="after")
    def _leaves_room_for_an_answer(self) -> Evaluation:
        limit, most = self.max_new_tokens, self.max_thinking_tokens
        if limit is not None and most is not None and most >= limit:
            raise ValueError(
                f"max_thinking_tokens must be below max_new_tokens ({limit}), as no thought is cut where nothing could be said after it, "
                f"got {most}; lower it, or raise max_new_tokens"
            )
        return self

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Evaluation:
        for name, benchmark in (self.benchmarks or {"": ScoredBenchmark()}).items():
            drawn = self.sampling(benchmark) or GREEDY
            for key, text in (("num_samples", "samples are equal"), ("top_p", "the likeliest token is taken")):
                if drawn["temperature"] == 0 and drawn[key] != GREEDY[key]:
                    is_own = getattr(benchmark, key) is not None or benchmark.temperature is not None
                    place = f"benchmarks.{name}.{key}" if is_own else key
                    raise ValueError(
                        f"{place} must be 1 at temperature 0, where {'all ' * (key == 'num_samples')}{text}, got {drawn[key]}; set "
                        "evaluation.temperature (0.6 is usual for models that reason), or leave it out"
                    )
        if (
            not self.benchmarks
            and not self.lm_eval
            and (unread := next((k for k in DRAWN if getattr(self, k) != GREEDY[k]), None))
        ):
            raise ValueError(
                f"{unread} must be left out without benchmarks, as judged answers are greedy and given once, got "
                f"{getattr(self, unread)}; name benchmarks with a rule, such as evaluation.benchmarks=[aime_2024], or remove it"
            )
        if self.lm_eval and (self.num_samples, self.temperature) != (1, 0):
            key = "num_samples" if self.num_samples != 1 else "temperature"
            raise ValueError(
                f"{key} must be left out beside lm_eval ({', '.join(self.lm_eval)}), whose tasks are answered once and by their own "
                f"settings, got {getattr(self, key)}; give it to the benchmarks: evaluation.benchmarks={{aime_2024: {{{key}: …}}}}"
            )
        return self

    @model_validator(mode="after")
    def _weighs_text(self) -> Evaluation:
        if self.lm_eval and is_remote(self.engine):
            raise ValueError(
                f"lm_eval must run on an engine that loads the model itself, got {self.engine}; "
                "set evaluation.engine=vllm or transformers, or leave lm_eval out"
            )
        if self.checkpoints and (is_remote(self.engine) or not self.benchmarks):
            where = f"with engine {self.engine}, which serves one model" if is_remote(self.engine) else "without benchmarks"
            raise ValueError(f"checkpoints must be left out {where}, got {self.checkpoints}; leave it out")
        return self


class TokenPrice(Section):
    """US dollars per million tokens."""

    input: float = Field(ge=0, description="of prompts")
    output: float = Field(ge=0, description="of completions")


class Spending(Section):
    """What a run may pay to endpoints for answers, judgments and labels together."""

    max_usd: float | None = Field(
        None,
        gt=0,
        description=(
            "no request is made that could take the run, with everything it has asked of endpoints in any of its tasks, over "
            "this; left out: no cap"
        ),
    )
    prices: dict[str, TokenPrice] = Field(
        default_factory=dict,
        description=(
            "by the model's name at the endpoint, in US dollars per million tokens: `{gpt-x: {input: 2.5, "
            "output: 10}}`; left out: the protocols' judges"
        ),
    )


class Resources(Section):
    """How many tasks of a run may be at work at the same time (docs/pipeline.md). Part of no key."""

    devices: int | None = Field(
        None,
        gt=0,
        description=(
            "GPUs that the run shares out, or without GPUs parts of equal size that the cores are divided into; left out: all GPUs, or "
            "all cores as one"
        ),
    )
    cpu_slots: int | None = Field(
        None,
        gt=0,
        description=(
            "tasks at a time that need neither a device nor an endpoint, such as scoring; left out: one per core, and where the run has "
            "one device and no endpoint, one task at a time of all"
        ),
    )
