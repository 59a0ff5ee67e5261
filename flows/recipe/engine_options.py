"""The keys of a recipe that say which engine runs a model and how it loads it: the same under `sample`, `evaluation` and every judge."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from bnf.plugins import load, names
from evaluation.engines import ENGINES, LOAD_OPTIONS, PLACEMENT_OPTIONS, LoadOption, is_remote
from evaluation.judging import reward_model
from flows.recipe.section import Section

ENGINE_DEFAULT = "left out: vLLM where it is installed, else transformers"


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


MaxModelLen = Annotated[
    int | None,
    Field(
        # A token of the prompt, and one of the completion.
        ge=2,
        description=(
            "most tokens of a prompt and its completion together: a longer prompt is not completed, and a completion ends there; left "
            "out: the model's own"
        ),
    ),
]
TensorParallelSize = Annotated[
    int | None, Field(gt=0, description="engine `vllm`: over so many GPUs each layer is spread; left out: 1")
]
GpuMemoryUtilization = Annotated[
    float | None, Field(gt=0, le=1, description="engine `vllm`: share of each GPU's memory that it takes; left out: vLLM's own")
]

NumReplicas = Annotated[
    int | None,
    Field(
        gt=0, description="processes that load the model and share out prompts, each with GPUs or cores of its own; left out: 1"
    ),
]


class LoadsModel(Section):
    """A section with an `engine`, and with a key for each of `LOAD_OPTIONS`."""

    @model_validator(mode="after")
    def _options_of_its_engine(self) -> Self:
        engine = vars(self)["engine"]
        takes = reward_model.OPTIONS if engine == "reward_model" else load(ENGINES, engine).OPTIONS
        for name, value in self.load_options().items():
            if name not in takes:
                takers = [other for other in names(ENGINES) if name in load(ENGINES, other).OPTIONS]
                raise ValueError(
                    f"{name} must be left out with engine {engine}, which doesn't take it, got {value:g}; remove it, or set engine to "
                    f"{' or '.join(takers)}"
                )
        return self

    @model_validator(mode="after")
    def _ends_thoughts(self) -> Self:
        engine, limit = vars(self)["engine"], vars(self).get("max_thinking_tokens")
        if limit is not None and is_remote(engine):
            raise ValueError(
                f"max_thinking_tokens must be left out with engine {engine}, whose server ends no thought for us, got {limit}; remove it "
                "and give the server a limit of its own, or set engine to vllm or transformers"
            )
        return self

    def load_options(self) -> dict[LoadOption, int | float]:
        """Those that are set."""
        given = vars(self)
        return {name: given[name] for name in LOAD_OPTIONS if given[name] is not None}

    def placement(self) -> dict[str, dict[LoadOption, int | float]]:
        """Those that are part of no key, as a stage's setting; empty where none is set."""
        placed = {name: value for name, value in self.load_options().items() if name in PLACEMENT_OPTIONS}
        return {"engine_placement": placed} if placed else {}
