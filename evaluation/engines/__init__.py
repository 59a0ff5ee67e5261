"""Engines: what runs a model. One file per engine, whose name is its name in a recipe.

Here are the contracts of an engine (`Engine`, `LikelihoodEngine`) and of its file (`EngineFile`), the kind (`ENGINES`), the functions that
open an engine by its name (`open_engine`, `environment`), the options that a recipe has for it (`LoadOption`, `load_options`,
`opening_options`), and what engines share (`too_long`, `longer_than_own`, `own_length`, `cut_left`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeVar, cast, get_args

from bnf.host import own_cores
from bnf.model.device import devices
from bnf.parallel.cluster import Cluster, Machine
from bnf.plugins import Kind, default, load, names
from evaluation.records import Record
from evaluation.types import Generation, Message, Sampling

# What not every engine can do: the fields `choices`, `schema`, `top_logprobs` and `seeds` of `Sampling`.
Feature = Literal["choices", "schema", "logprobs", "seeds"]
# How a model is loaded: options of `open` that a recipe sets, as keys of `sample`, `evaluation` and of each judge.
LoadOption = Literal["max_model_len", "tensor_parallel_size", "gpu_memory_utilization", "num_replicas"]
LOAD_OPTIONS: tuple[LoadOption, ...] = get_args(LoadOption)
# Those that say where a model computes, and no more. They are part of no key, as a training's placement is part of none: they change
# the order in which numbers are added, as another GPU does.
PLACEMENT_OPTIONS: frozenset[LoadOption] = frozenset({"tensor_parallel_size", "gpu_memory_utilization", "num_replicas"})
# A prompt as token ids, for engines that run the model here, or as chat messages, for those behind a server's own template.
Prompt = Sequence[int] | Sequence[Message]
# Index of the prompt, and its `sampling.n` completions.
Completed = tuple[int, list[Generation]]
T = TypeVar("T")
R = TypeVar("R")
Received = Callable[[int, list[Generation]], None]


def unheard(index: int, completions: list[Generation]) -> None:
    """The default of `received`: the caller takes completions as they are yielded, and loses those under way where it stops early."""


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


class EngineFile(Protocol):
    """What an engine's file has. A new engine is one such file: the recipe's choices, the preflight and the keys follow from it.

    Attributes:
        LIBRARY: The library that it imports and that must be installed.
        PACKAGES: Distributions of that library; the version of the first that is installed is part of the key of what is generated.
            Empty where a server generates.
        REMOTE: Whether the model runs behind an endpoint. Then `open` takes a model's name there, and `base_url` and `meter` too.
        SUPPORTS: Which fields of `Sampling` it can do besides the plain ones.
        OPTIONS: Which of the `LOAD_OPTIONS` it takes. A recipe that sets another one for it is refused. `num_replicas` doesn't reach its
            `open`, but a process for each: such an engine takes token ids, has `choices` and is a `LikelihoodEngine`.
        BATCH: How many prompts, in the order of their lengths, it computes together. Replicas share out so many, or multiples.
    """

    LIBRARY: str
    PACKAGES: Sequence[str]
    REMOTE: bool = False
    SUPPORTS: frozenset[Feature] = frozenset()
    OPTIONS: frozenset[LoadOption] = frozenset()
    BATCH: int = 1

    def open(self, model: str | Path, **options: object) -> Engine:
        """Loads the model of a folder, or connects to one. Its file names the options, with their types, as keyword arguments."""
        ...

    def environment(self) -> dict[str, str]:
        """The variables that must be set before the process that opens the engine starts; what the user has set stays."""
        ...

    @default
    def problem(self, options: Mapping[str, int | float], config: Record | None, gpus: int | None = None) -> str | None:
        """Why `open` would refuse some of its `OPTIONS`, for the model of this config.json and on a machine with so many GPUs.

        The text begins with the option's name. None where there is no reason, or none yet: `config` is None until the model is here.
        `gpus` left out are this machine's.
        """
        return None


ENGINES = Kind("engine", "evaluation.engines", EngineFile)


def is_remote(name: str) -> bool:
    """Whether the named engine generates behind an endpoint; False for a name that is no engine's, such as `reward_model`."""
    return name in names(ENGINES) and load(ENGINES, name).REMOTE


def open_engine(name: str, model: str | Path, /, **options: object) -> Engine:
    """Loads `model` (a folder; behind an endpoint the model's name there) in the named engine; its file's `open` has the options.

    With `num_replicas` above 1 so many processes load it, which share out prompts; with `ray`, an address, workers there.

    Raises:
        ValueError: where there is no such engine.
    """
    replicas, ray = cast(int, options.pop("num_replicas", 1)), cast(str | None, options.pop("ray", None))
    if replicas == 1 and ray is None:
        return load(ENGINES, name).open(model, **options)
    from evaluation.engines._replica_process import Opening
    from evaluation.engines._replicas import Replicas

    return Replicas(Opening(name, str(model), options), replicas, ray)


def share_chunks(engine: Engine, chunks: Sequence[T], work: Callable[[Engine, T], Iterator[R]]) -> Iterator[R]:
    """What `work(engine, chunk)` yields for every chunk; an engine of several replicas does several at once, each by one replica.

    `work` does a chunk again where a replica has ended in it.
    """
    from bnf.parallel.share import share_out
    from evaluation.engines._replicas import Replicas

    if isinstance(engine, Replicas):
        yield from share_out(engine.alive, chunks, work)
    else:
        for chunk in chunks:
            yield from work(engine, chunk)


def environment(name: str) -> dict[str, str]:
    """The variables that must be set before the process that opens the named engine starts; what the user has set stays.

    Raises:
        ValueError: where there is no such engine.
    """
    return load(ENGINES, name).environment()


def load_options(settings: Mapping[str, object]) -> dict[str, int | float]:
    """What a recipe says of how a model is loaded, from a stage's settings: those that are part of its key stand under `engine`."""
    said: Record = {**cast(Record, settings["engine"]), **cast(Record, settings.get("engine_placement", {}))}
    return {name: said[name] for name in LOAD_OPTIONS if name in said}


def opening_options(settings: Mapping[str, object]) -> dict[str, object]:
    """The options of `open_engine` in a stage's settings: how the model is loaded, and Ray's address where there is one."""
    return {**load_options(settings), **({"ray": settings["ray"]} if "ray" in settings else {})}


def too_many_replicas(options: Mapping[str, int | float], cluster: Cluster | None = None) -> str | None:
    """What is wrong with a `num_replicas` for which there are too few GPUs, or without GPUs too few cores: in the cluster, or here."""
    replicas, size = int(options.get("num_replicas", 1)), int(options.get("tensor_parallel_size", 1))
    if cluster is None and replicas == 1:
        return None
    there = cluster or Cluster((Machine(len(devices()), len(own_cores())),))
    most = there.room_for(size)
    if replicas <= most:
        return None
    whose = "this machine's" if cluster is None else "the cluster's"
    if cluster is not None and most == 0 and there.num_gpus:
        largest = max(machine.num_gpus for machine in there.machines)
        return f"tensor_parallel_size must be at most {largest}, the GPUs of the cluster's largest node, got {size}; lower it"
    if most == 0:
        return "num_replicas must find a GPU or a core in the cluster, which has none now; start Ray on a node that has some"
    here = f"of {whose} {there.num_gpus} GPUs, {size} for each" if there.num_gpus else f"{whose} cores"
    return f"num_replicas must be at most {max(1, most)}, {here}, got {replicas}; lower it"


def check_room(address: str, cluster: Cluster, replicas: int, gpus: int) -> None:
    """Sees whether Ray has room for so many replicas of so many GPUs each, and says where some of them have to wait for it.

    Raises:
        ValueError: there is room for none, or for too few on this machine alone (`local`).
    """
    found = too_many_replicas({"num_replicas": replicas, "tensor_parallel_size": gpus}, None if address == "local" else cluster)
    room = cluster.room_for(gpus)
    if found and (address == "local" or room == 0):
        raise ValueError(found)
    if found:
        # A machine of the cluster has gone since the run began. It may come back.
        print(f"the cluster has room for {room} of {replicas} replicas; the others wait for a machine", flush=True)


def own_length(config: Record) -> int | None:
    """The most tokens that a model's config.json says it reads."""
    length: int | None = config.get("max_position_embeddings", config.get("text_config", {}).get("max_position_embeddings"))
    return length


def longer_than_own(max_model_len: float | None, own: int | None) -> str | None:
    """What is wrong with a `max_model_len` above the model's own; None where it is not above, or one of both isn't known."""
    if max_model_len is None or own is None or max_model_len <= own:
        return None
    return f"max_model_len must be at most the model's own {own}, got {max_model_len}; lower it, or leave it out for the model's own"


def too_long(prompt_ids: Sequence[int], sampling: Sampling, max_model_len: int | None) -> list[Generation]:
    """The completions of a prompt that leaves no room for a token, or for a whole choice; empty where there is room."""
    least = sampling.max_new_tokens if sampling.choices else 1
    if max_model_len is None or len(prompt_ids) + least <= max_model_len:
        return []
    return [Generation("", [], "prompt_too_long", len(prompt_ids), 0)] * sampling.n


def cut_left(context: Sequence[int], continuation: Sequence[int], max_tokens: int | None) -> list[int]:
    """Context and continuation joined, cut from the left to `max_tokens`; at least one token of the context stays.

    Raises:
        ValueError: where the continuation alone leaves no room for one.
    """
    if max_tokens is not None and len(continuation) >= max_tokens:
        raise ValueError(
            f"continuations must have less than {max_tokens} tokens, got {len(continuation)}; the model's context ends there"
        )
    whole = [*context, *continuation]
    return whole if max_tokens is None else whole[-max_tokens:]
