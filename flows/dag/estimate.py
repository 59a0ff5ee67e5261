"""What a recipe's training will take: memory on each device, disk, steps and hours. Computed from the model's config.json alone.

Neither weights nor data have to be there. Data that are prepared are counted; for others a person may say how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnf.data.sizes import DataSizes, assumed_sizes, data_sizes
from bnf.model.device import devices
from bnf.model.shapes import ModelShape, read_shape
from bnf.paths import person_path
from bnf.training.choosing import num_kept
from bnf.training.config import TrainConfig
from bnf.training.cost import Cost, cost
from bnf.training.fields import AUTO
from bnf.training.fitting import remedies
from bnf.training.gpus import ALLOCATOR_SHARE, ASSUMED_SHARE, GPUS, Gpu, find_gpu, of_device
from bnf.training.memory import Estimate, estimate, trained_parameters
from bnf.training.optimizer_states import knows_optimizer
from bnf.training.row_memory import Device, RowSizes
from evaluation.bundle import opened
from flows.dag import hub
from flows.dag.graph import build
from flows.dag.on_policy import data_nodes
from flows.errors import RecipeError
from flows.recipe.checkpoints import asked_checkpoints
from flows.recipe.config import Recipe
from flows.runs.home import open_store
from tasks.nodes import ancestors, forecast

# Of groups that aren't there: two completions behind a prompt, and how the tokens are shared between them.
_PROMPT_SHARE, _NUM_COMPLETIONS = 0.3, 2
_GROUP_TOKENS = 700


@dataclass(frozen=True)
class OnGpu:
    """A GPU, and how the training goes there; `hours` is None where the data or the GPU's rate aren't known."""

    name: str
    memory: float
    needed: float
    fits: bool
    hours: float | None
    remedy: str | None

    def to_json(self) -> dict[str, object]:
        """The fields in plain JSON."""
        return {
            "gpu": self.name,
            "memory": round(self.memory),
            "needed": round(self.needed),
            "fits": self.fits,
            "hours": self.hours,
            "remedy": self.remedy,
        }


@dataclass(frozen=True)
class RecipeEstimate:
    """The estimate of a recipe's training.

    Attributes:
        config_file, found: the model's config.json, and in words where it was found.
        data: the sizes of the data, and in words what they are; None where they aren't known.
        cost: what is computed; None where the data aren't known.
        gpus: the GPUs that were asked about.
        assumptions: what the figures take for granted.
        kept: how many policies beside the last one lie on the disk at most.
    """

    model: str
    config: TrainConfig
    shape: ModelShape
    config_file: Path
    found: str
    device: Device
    memory: Estimate
    data: DataSizes | None
    seen: str
    cost: Cost | None
    gpus: Sequence[OnGpu]
    assumptions: Sequence[str]
    kept: int

    def to_json(self) -> dict[str, object]:
        """Everything in plain JSON; sizes in bytes."""
        return {
            "model": self.model,
            "config_file": str(self.config_file),
            "parameters": self.shape.parameters,
            "trained_parameters": trained_parameters(self.shape, self.config),
            "processes": self.config.num_processes,
            "nodes": self.config.num_nodes,
            "sharding": self.config.sharding,
            "row_tokens": self.memory.row.tokens,
            "device": self.device,
            "memory": self.memory.device.to_json(),
            "host": round(self.memory.host),
            "checkpoint": round(self.memory.checkpoint),
            "policy": round(self.memory.policy),
            "kept_policies": self.kept,
            "data": self.seen,
            "groups": None if self.data is None else self.data.groups,
            "steps": None if self.cost is None else self.cost.steps,
            "tokens": None if self.cost is None else self.cost.tokens,
            "flops": None if self.cost is None else self.cost.flops,
            "gpus": [gpu.to_json() for gpu in self.gpus],
            "assumptions": list(self.assumptions),
        }


@dataclass(frozen=True)
class Asked:
    """What a person says beside the recipe: the model's config.json, a GPU's name or `cpu`, and the data where they aren't prepared."""

    model_config: str | None = None
    gpu: str | None = None
    groups: int | None = None
    group_tokens: int | None = None


def estimate_recipe(recipe: Recipe, asked: Asked, home: Path) -> RecipeEstimate:
    """The estimate of the training of a recipe; of several rounds, of one of them.

    Raises:
        RecipeError: the recipe has no training, the model's config.json isn't found, or the model can't be trained.
    """
    if recipe.train is None:
        raise RecipeError("train must be in the recipe for an estimate, got none; add `train: {}` and the data")
    config = recipe.train_config()
    config_file, found = _config_file(recipe, asked.model_config)
    gpu = (asked.gpu or "").lower()
    try:
        shape = read_shape(config_file)
    except (ValueError, OSError) as error:
        raise RecipeError(str(error)) from error
    try:
        named = [] if gpu in ("", "cpu") else [find_gpu(gpu)]
    except ValueError as error:
        raise RecipeError(str(error)) from error
    data, seen = _data(recipe, config, asked, home)
    prompt, completions = (data.prompt, data.completions) if data is not None else _assumed_group(config)
    device: Device = "cpu" if gpu == "cpu" else "cuda"
    # Of data that aren't here a group may be longer than the mean that is named.
    prepared = data if asked.groups is None else None
    row = RowSizes(_row_tokens(config, prepared), prompt, completions)
    memory = estimate(shape, config, row, device)
    computed = cost(shape, config, data) if data is not None else None
    longest = _NUM_COMPLETIONS * recipe.prepare.max_length if prepared is None else prepared.longest
    asked_about = [] if device == "cpu" else named or _own_gpus() or GPUS
    gpus = [_on(gpu, shape, config, memory, computed, longest) for gpu in asked_about]
    return RecipeEstimate(
        model=recipe.model_name_or_path,
        config=config,
        shape=shape,
        config_file=config_file,
        found=found,
        device=device,
        memory=memory,
        data=data,
        seen=seen,
        cost=computed,
        gpus=gpus,
        assumptions=[*_assumptions(config, data, row, device), *_of_reference(recipe)],
        kept=num_kept(asked_checkpoints(recipe), config.keep_best),
    )


def _config_file(recipe: Recipe, given: str | None) -> tuple[Path, str]:
    """The model's config.json and where it was found: what is given, the model's folder, beside the recipe, or this machine's cache."""
    if given is not None:
        path = person_path(given)
        file = path / "config.json" if path.is_dir() else path
        if not file.is_file() or file.name != "config.json":
            raise RecipeError(f"--model-config must be a config.json or its folder, got {given}; give the file's path")
        return file, "--model-config"
    name = recipe.model_name_or_path
    try:
        folder = recipe.find("model_name_or_path", name)
    except RecipeError:
        folder = None
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise RecipeError(f"model_name_or_path must be a folder with config.json, got {folder}; save the model there")
        return folder / "config.json", "the model's folder"
    try:
        beside = recipe.find("model_name_or_path", f"configs/{name}/config.json")
    except RecipeError:
        beside = None
    if beside is not None:
        return beside, "beside the recipe"
    from huggingface_hub import try_to_load_from_cache

    if (bundle := opened()) is not None and bundle.commit("model", name, recipe.revision) is not None:
        return bundle.find("model", name, recipe.revision) / "config.json", "the bundle"
    cached = try_to_load_from_cache(name, "config.json", revision=recipe.revision)
    if not isinstance(cached, str):
        # What is fetched is fetched by its commit.
        cached = try_to_load_from_cache(name, "config.json", revision=hub.pinned("model", name, recipe.revision))
    if isinstance(cached, str):
        return Path(cached), "this machine's cache of the hub"
    raise RecipeError(
        f"model_name_or_path must have its config.json here for an estimate, got {name!r} without one; give --model-config FILE, or put it "
        f"beside the recipe as configs/{name}/config.json"
    )


def _data(recipe: Recipe, config: TrainConfig, asked: Asked, home: Path) -> tuple[DataSizes | None, str]:
    """The sizes of the data, and what they are in words."""
    if (asked.groups is None) != (asked.group_tokens is None):
        raise RecipeError("--groups must be given with --group-tokens, got one of them; give both")
    if asked.groups is not None and asked.group_tokens is not None:
        sizes = assumed_sizes(asked.groups, asked.group_tokens, prompt_share=_PROMPT_SHARE, num_completions=_NUM_COMPLETIONS)
        return sizes, f"{asked.groups:,} groups of {asked.group_tokens:,} tokens, as given"
    try:
        nodes, wanted = build(recipe), data_nodes(recipe)[-1]
        needed = ancestors(nodes, [wanted])
        known = forecast([node for node in nodes if node.id in needed], open_store(home, verify=False), {})
        prepared = known[wanted]
    except (RecipeError, ValueError, OSError) as error:
        return None, f"not known ({str(error).splitlines()[0]})"
    if not prepared.cached or prepared.artifact is None or not prepared.artifact.path.is_dir():
        return None, "not prepared yet"
    sizes = data_sizes(prepared.artifact.path, share_prompts=config.share_prompts)
    return sizes, f"{sizes.groups:,} groups, {sizes.tokens:,} tokens, the longest {sizes.longest:,}: prepared here"


def _assumed_group(config: TrainConfig) -> tuple[int, tuple[int, ...]]:
    """The group that memory is computed for where the data aren't known."""
    tokens = min(_GROUP_TOKENS, _row_tokens(config, None))
    sizes = assumed_sizes(1, tokens, prompt_share=_PROMPT_SHARE, num_completions=_NUM_COMPLETIONS)
    return sizes.prompt, sizes.completions


def _row_tokens(config: TrainConfig, data: DataSizes | None) -> int:
    """The tokens of the longest row that may come; under auto, whose trials find them, the default."""
    longest = 0 if data is None else data.longest
    row = max(TrainConfig().row_tokens, longest) if config.max_tokens_per_row == AUTO else config.row_tokens
    return row if data is None else min(row, config.max_groups_per_row * longest)


def _own_gpus() -> list[Gpu]:
    """This machine's GPUs, each kind once."""
    kinds = dict.fromkeys(devices())
    return [of_device(name, memory) or Gpu(name, memory, 0.0, "unknown") for name, memory in kinds]


def _on(gpu: Gpu, shape: ModelShape, config: TrainConfig, memory: Estimate, computed: Cost | None, longest: int) -> OnGpu:
    needed = memory.device.total
    fits = needed <= gpu.usable
    hours = computed.hours(gpu, config.num_processes) if computed is not None and gpu.tflops and config.bf16 else None
    remedy = None if fits else remedies(shape, config, memory.row, "cuda", gpu.usable, longest=longest)
    return OnGpu(gpu.name, gpu.memory, needed, fits, hours, remedy)


def _of_reference(recipe: Recipe) -> list[str]:
    chosen = recipe.chosen_reference()
    if chosen is None:
        return []
    whose = chosen.model_name_or_path or "the base model"
    return [
        f"the two passes before the training, of the reference ({whose}) and of the base model, count as one of the policy's size"
    ]


def _assumptions(config: TrainConfig, data: DataSizes | None, row: RowSizes, device: Device) -> list[str]:
    found = []
    if config.max_tokens_per_row == AUTO:
        found.append(f"rows of {row.tokens:,} tokens; max_tokens_per_row is auto, and a trial finds the largest that fits")
    if data is None:
        tokens = row.prompt + sum(row.completions)
        found.append(
            f"groups of {tokens} tokens with {_NUM_COMPLETIONS} completions; --groups N --group-tokens T give steps and hours"
        )
    if device == "cuda":
        found.append(f"{100 * ALLOCATOR_SHARE:.0f} % of a GPU's memory is left to its allocator")
    if device == "cuda" and not config.bf16:
        found.append("no hours in fp32: the rates are those of bf16")
    elif device == "cuda" and data is not None:
        found.append(
            f"hours: {100 * ASSUMED_SHARE:.0f} % of the GPU's peak rate in bf16 as its maker states it; assumed, not measured (Llama 3's "
            "pretraining reached 38 to 43 % of H100s, arXiv 2407.21783); evaluations and samples are not counted"
        )
    if not knows_optimizer(config):
        found.append(f"the states of {config.optim} aren't known and count as AdamW's")
    return found
