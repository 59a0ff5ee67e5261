"""What runs a model. One file per engine; its name is its name in a recipe."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from evaluation.types import Generation, Message, Sampling

# A prompt as token ids, for engines that run the model here, or as chat messages, for those behind a server's own template.
Prompt = Sequence[int] | Sequence[Message]
# Index of the prompt, and its `sampling.n` completions.
Completed = tuple[int, list[Generation]]
Received = Callable[[int, list[Generation]], None]


def unheard(index: int, completions: list[Generation]) -> None:
    """For whoever takes completions as they are yielded, and loses those under way where it stops early."""


class Engine(Protocol):
    """A loaded model, or a connection to one.

    `takes` says what prompts must be; `supports_choices` whether `Sampling.choices` can be had; `max_model_len` is the most
    tokens that prompt and completion may have together (None: unknown, the server decides).
    """

    takes: ClassVar[Literal["ids", "messages"]]
    supports_choices: ClassVar[bool]
    version: str

    @property
    def max_model_len(self) -> int | None: ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, received: Received = unheard
    ) -> Generator[Completed, None, None]:
        """Yields (index of the prompt, its `sampling.n` completions) as they finish, in any order.

        A completion's `finish_reason` is "stop", "length", "prompt_too_long" (nothing was generated) or "error: …".

        Args:
            received: Called with the same before it is yielded, at the moment it is there and in the thread that has it. An engine that
                is paid for calls it even for requests under way when the generator is closed, and closing waits for these.
        """
        ...

    def reseed(self, seed: int) -> None:
        """Makes what `generate` samples next depend on `seed` and its own arguments alone, not on what ran before."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...


class LikelihoodEngine(Engine, Protocol):
    """An engine that also says how likely a given text is; those behind a chat endpoint don't."""

    def loglikelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        """Yields (index of the pair, (log-probability of its continuation in nats, whether greedy decoding would give it)).

        A pair is the token ids of a context, at least one, and of its continuation; a context that is too long loses its beginning.
        """
        ...


def names() -> list[str]:
    """The engines there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def open_engine(name: str, model: str | Path, /, **options: Any) -> Engine:
    """Loads `model` (a folder; for openai the model's name at the endpoint) in the named engine.

    Options: vllm `max_model_len`, `tensor_parallel_size`; transformers `max_model_len`, `batch_size`; openai `base_url`,
    `max_concurrency`, `max_retries`, `timeout_s`.

    Raises:
        ValueError: where there is no such engine.
    """
    engine: Engine = _module(name).open(model, **options)
    return engine


def environment(name: str) -> dict[str, str]:
    """The variables that must be set before the process that opens the engine starts; what the user has set stays.

    Raises:
        ValueError: where there is no such engine.
    """
    variables: dict[str, str] = _module(name).environment()
    return variables


def too_long(prompt_ids: Sequence[int], sampling: Sampling, max_model_len: int | None) -> list[Generation]:
    """What an engine gives for a prompt that leaves no room: for a token, or for a whole choice. Empty where there is room."""
    least = sampling.max_new_tokens if sampling.choices else 1
    if max_model_len is None or len(prompt_ids) + least <= max_model_len:
        return []
    return [Generation("", [], "prompt_too_long", len(prompt_ids), 0)] * sampling.n


def cut_left(context: Sequence[int], continuation: Sequence[int], max_tokens: int | None) -> list[int]:
    """Context and continuation as one, without as much of the beginning as is over `max_tokens`; one token before the
    continuation stays.

    Raises:
        ValueError: where the continuation alone leaves no room for one.
    """
    if max_tokens is not None and len(continuation) >= max_tokens:
        raise ValueError(
            f"continuations must have less than {max_tokens} tokens, got {len(continuation)}; the model's context ends there"
        )
    whole = [*context, *continuation]
    return whole if max_tokens is None else whole[-max_tokens:]


def _module(name: str) -> Any:
    if name not in names():
        raise ValueError(
            f"engine must be one of {', '.join(names())}, got {name!r}; correct it, or add evaluation/engines/{name}.py"
        )
    return importlib.import_module(f"evaluation.engines.{name}")
