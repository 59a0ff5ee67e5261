"""The sections of a recipe that say which benchmarks and tasks a model is evaluated on, and how often each of their items is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, model_validator

from flows.recipe.paths import MayBeLocal
from flows.recipe.section import Section


def by_name(value: object, as_called: Callable[[str], str] = lambda name: name) -> object:
    """A list of names is the same as a mapping without settings."""
    if isinstance(value, str):
        raise ValueError(f"must be a list of names, or a mapping of names to settings, got {value!r}; write [{value}]")
    if not isinstance(value, list | dict):
        return value
    entries: list[tuple[object, object]] = [(name, {}) for name in value] if isinstance(value, list) else list(value.items())
    named: dict[str, object] = {}
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


def benchmarks_by_name(value: object) -> object:
    """Benchmarks by name, where `-` is the same as `_`."""
    return by_name(value, lambda name: name.replace("-", "_"))


class Benchmark(Section):
    """A benchmark: where its items come from, and how many of them are taken."""

    source: Annotated[str | None, MayBeLocal(other_words=("sample",))] = Field(
        None, description="left out: its hub id; `sample`: the project's own items; else a local file in the upstream format"
    )
    limit: int | None = Field(None, gt=0, description="the first so many items")


class ScoredBenchmark(Benchmark):
    """A benchmark with a rule: also how its completions are drawn, where that differs from the other benchmarks'."""

    num_samples: int | None = Field(None, gt=0, description="completions of each item; left out: `evaluation.num_samples`")
    temperature: float | None = Field(None, ge=0, description="left out: `evaluation.temperature`")
    top_p: float | None = Field(None, gt=0, le=1, description="left out: `evaluation.top_p`")


class AnsweredOnce(Section):
    """A section of what is answered once."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_samples(cls, value: object) -> object:
        if isinstance(value, dict) and "num_samples" in value:
            raise ValueError(
                "num_samples must be left out for judged benchmarks and lm-eval's tasks, which are answered once, got "
                f"{value['num_samples']!r}; sample benchmarks with a rule: evaluation.benchmarks={{aime_2024: {{num_samples: 16}}}}"
            )
        return value


class LmEvalTask(AnsweredOnce):
    """How one of lm-evaluation-harness's tasks is run."""

    num_fewshot: int | None = Field(None, ge=0, description="examples before each question; left out: the task's own")
    limit: int | None = Field(None, gt=0, description="the first so many documents of each task")
    chat: bool = Field(False, description="prompts go through the model's chat template")


class JudgedBenchmark(Benchmark, AnsweredOnce):
    """A judged benchmark: which of its questions, judged by which protocols, and compared with whose answers."""

    forms: list[str] | None = Field(
        None, description="how its answers are judged: files in `evaluation/judging/protocols`; left out: the benchmark's first"
    )
    baseline: Annotated[str | None, MayBeLocal()] = Field(
        None,
        description=(
            "a file of recorded answers, for the protocols that compare: then every model is judged against it; "
            "left out: the base model's answers"
        ),
    )
    references: Annotated[str | None, MayBeLocal()] = Field(
        None, description="`mt_bench`: a file of reference answers; left out: the questions' own"
    )
