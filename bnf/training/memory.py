"""How much memory a training takes, by arithmetic on the model's shape and the settings: on each device, on the host and on the disk.

Nothing is loaded and torch isn't imported, so a plan can ask. `python -m tests.performance.memory` compares it with measured peaks
(docs/performance/memory.md).
"""

from dataclasses import dataclass, fields
from typing import Literal

from bnf.model.shapes import Linear, ModelShape
from bnf.training.config import TrainConfig

Device = Literal["cpu", "cuda"]

# Of `bnf.model.logps`: logits that exist at once, the part of them that is widened to float32, and products of the head's gradient.
_LOGITS = {"cpu": 2**25, "cuda": 2**27}
_WIDE_SHARE = 8
_WEIGHT_PART = 2**23
# Of `bnf.model.attention` and `bnf.model.segments`: which blocks of queries a CPU computes in float32, and where a group is cut.
_FLOAT32_QUERIES = 192
_ONE_BLOCK_TOKENS = 512
_SHARED_BLOCK_TOKENS = 128

# Bytes of an optimizer's states for a parameter, by transformers' names. "full" states have the weights' dtype.
_FULL_STATES = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adamw_apex_fused"), 2),
    **dict.fromkeys(("stable_adamw", "schedule_free_adamw", "schedule_free_radam", "ademamix"), 2),
    **dict.fromkeys(("lion", "paged_lion", "lion_32bit", "paged_lion_32bit", "adagrad", "rmsprop", "rmsprop_32bit"), 1),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit", "adamw_bnb_32bit"), 2),
    # Without momentum, as transformers makes it; factored moments are a row and a column.
    **dict.fromkeys(("sgd", "schedule_free_sgd", "adafactor"), 0),
}
# Eight bits a state, and a float32 constant for every 256.
_EIGHT_BITS = 1 + 4 / 256
_SMALL_STATES = {
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), 2 * _EIGHT_BITS),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), _EIGHT_BITS),
    "adamw_torch_4bit": 2 * (0.5 + 4 / 128),
}
# A weight in 4 bits with its constants, each for 64 weights and themselves in 8 bits (QLoRA, arXiv 2305.14314, section 3).
_FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)

# What a process has before the model: the CUDA context and its libraries' workspaces; on a CPU the imported libraries.
_OVERHEAD = {"cpu": 700 * 2**20, "cuda": 2**30}
# What the allocator holds beside the tensors, as a share of those that come and go.
_HOLES = {"cpu": 0.0, "cuda": 0.05}


@dataclass(frozen=True)
class RowSizes:
    """The tokens of a row, and how its groups are built: a prompt, and completions behind it."""

    tokens: int
    prompt: int
    completions: tuple[int, ...]

    @property
    def label_positions(self) -> int:
        """Completion tokens of the row, whose logits are computed."""
        group = self.prompt + sum(self.completions)
        return round(self.tokens * sum(self.completions) / group)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, in one process, at the step's peak. `total` is their sum.

    Attributes:
        weights, gradients, optimizer: what this process holds of them: all, or its share.
        buckets: the copy of the gradients that DistributedDataParallel exchanges.
        gathered: layers whose shares are brought together while they are computed, and their gradients before these are shared out.
        root: embeddings, last norm and head, which stay together for a whole step, and their gradients.
        copies: the matrix products' weights in bfloat16, which autocast makes of float32.
        activations: what the layers keep of a row for the backward pass.
        head: logits and their gradient, a chunk at a time, and the head's weights in their dtype.
        backward: what exists for a moment in the backward pass.
        holes: what the allocator holds beside all of these.
        overhead: what a process has before the model.
    """

    weights: float
    gradients: float
    optimizer: float
    buckets: float
    gathered: float
    root: float
    copies: float
    activations: float
    head: float
    backward: float
    holes: float
    overhead: float

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return sum(getattr(self, known.name) for known in fields(self))

    def to_json(self) -> dict[str, float]:
        """The parts and the total, in whole bytes."""
        return {known.name: round(getattr(self, known.name)) for known in fields(self)} | {"total": round(self.total)}


@dataclass(frozen=True)
class Estimate:
    """What a training takes: `device` of each device, the others of each process (`host`) or of the training (`checkpoint`, `policy`).

    Attributes:
        row: the row that it was computed for.
        host: the process's own memory where `device` is another: the libraries, the weights while they are loaded, and shares that
            `cpu_offload` keeps there. On a CPU, where the weights are loaded counts within `device`.
        checkpoint: weights that are trained and the optimizer's states, on the disk; for a moment there are two.
        policy: the trained model's files.
    """

    device: Memory
    row: RowSizes
    host: float
    checkpoint: float
    policy: float


def trained_parameters(shape: ModelShape, config: TrainConfig) -> int:
    """How many weights the optimizer changes: all, or those of the adapters."""
    if config.lora_r == 0:
        return shape.parameters - shape.unused_parameters
    return sum(config.lora_r * (linear.inputs + linear.outputs) for linear in _adapted(shape, config))


def optimizer_bytes(config: TrainConfig) -> float:
    """Bytes of the optimizer's states for a weight that is trained. An optimizer that isn't known counts as AdamW."""
    small = _SMALL_STATES.get(config.optim)
    return _weight_bytes(config) * _FULL_STATES.get(config.optim, 2) if small is None else small


def knows_optimizer(config: TrainConfig) -> bool:
    """Whether `optimizer_bytes` knows the optimizer."""
    return config.optim in _FULL_STATES or config.optim in _SMALL_STATES


def estimate(shape: ModelShape, config: TrainConfig, row: RowSizes, device: Device) -> Estimate:
    """What each process takes to train this model with these settings on rows of these sizes."""
    width = _weight_bytes(config)
    trained = trained_parameters(shape, config)
    adapters = trained if config.lora_r else 0
    held = shape.parameters * width + adapters * width
    if config.load_in_4bit:
        quantized = sum(linear.parameters for linear in shape.linears if linear.is_module)
        held -= quantized * (width - _FOUR_BITS)
    shares = _shares(config)
    weights, gradients, optimizer = held / shares, trained * width / shares, trained * optimizer_bytes(config) / shares
    gathered = root = offloaded = 0.0
    if shares > 1:
        layer_weights = held * shape.largest_layer / shape.parameters if config.load_in_4bit else shape.largest_layer * width
        layer_gradients = 0 if config.lora_r else shape.largest_layer * width
        # The layer that is computed and the next one; its gradients, and the buffer in which they are shared out.
        gathered = 2 * layer_weights + 2 * layer_gradients
        root = shape.root_parameters * width * (1 if config.lora_r else 2)
        if config.cpu_offload:
            offloaded = weights + gradients + optimizer
            weights = gradients = optimizer = 0.0
    buckets = float(trained * width) if config.num_processes > 1 and config.sharding == "none" else 0.0
    moment = max(_moments(shape, config, row, device), key=lambda found: found.total)
    coming_and_going = moment.total + gathered
    memory = Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        buckets=buckets,
        gathered=gathered,
        root=root,
        copies=moment.copies,
        activations=moment.activations,
        head=moment.head,
        backward=moment.backward,
        holes=_HOLES[device] * coming_and_going,
        overhead=_OVERHEAD[device],
    )
    loading = shape.parameters * (width + shape.stored_bytes)
    return Estimate(
        device=memory,
        row=row,
        host=_OVERHEAD["cpu"] + (0 if device == "cpu" else max(loading, offloaded)),
        checkpoint=trained * (width + optimizer_bytes(config)),
        policy=shape.parameters * shape.stored_bytes + adapters * width,
    )


def _weight_bytes(config: TrainConfig) -> int:
    return 2 if config.weights == "bf16" else 4


def _shares(config: TrainConfig) -> int:
    """Over how many processes weights, gradients and optimizer are split."""
    return {"none": 1, "full": config.num_processes, "hybrid": config.nproc_per_node}[config.sharding]


def _adapted(shape: ModelShape, config: TrainConfig) -> list[Linear]:
    """The matrix products that get adapters, by peft's rules of names."""
    import re

    wanted = config.lora_target_modules
    modules = [linear for linear in shape.linears if linear.is_module]
    if isinstance(wanted, list):
        return [linear for linear in modules if any(f".{linear.name}".endswith(f".{name}") for name in wanted)]
    return modules if wanted == "all-linear" else [linear for linear in modules if re.fullmatch(wanted, linear.name)]


@dataclass(frozen=True)
class _Moment:
    """What a row holds at a moment of its forward and backward pass."""

    copies: float
    activations: float
    head: float
    backward: float

    @property
    def total(self) -> float:
        return self.copies + self.activations + self.head + self.backward


def _moments(shape: ModelShape, config: TrainConfig, row: RowSizes, device: Device) -> list[_Moment]:
    """The moments at which a row may hold the most: in the head, in the last layer's backward pass, in the embeddings' gradient, and
    with checkpointing at the end of the forward pass."""
    width, act = _weight_bytes(config), _activation_bytes(config)
    kept, masks = _kept_of_layer(shape, config, row, device)
    cast = 2 if act < width else 0
    copies = 0.0 if config.load_in_4bit else float(cast * shape.linear_parameters)
    largest = max(linear.parameters for linear in shape.linears)
    # A layer's gate and up computed again, the gradients of its MLP and of the residual stream.
    layer = row.tokens * (5 * shape.intermediate * act + 3 * shape.hidden * 4)
    # Of the largest matrix its gradient in the products' dtype and in its own.
    layer += 0 if config.lora_r else largest * (width + cast)
    head, waiting = _head(shape, config, row, device)
    embeddings = _Moment(0.0, masks, waiting + (0 if config.lora_r else shape.head_parameters * width), 0.0)
    if not config.gradient_checkpointing:
        activations = shape.layers * row.tokens * kept + masks
        return [_Moment(copies, activations, head, 0.0), _Moment(copies, activations, waiting, layer), embeddings]
    activations = shape.layers * row.tokens * shape.hidden * _residual_bytes(config) + masks
    # What is computed again of a layer is all kept, its norms' and gates' outputs too.
    again = row.tokens * (kept + act * (2 * shape.hidden + shape.intermediate + shape.query))
    # Autocast holds its copies of trained weights until the forward pass ends.
    forward = _Moment(0.0 if config.lora_r else copies, activations, 0.0, row.tokens * act * 3 * shape.intermediate)
    return [
        forward,
        _Moment(0.0, activations, head, 0.0),
        _Moment(copies / shape.layers, activations, waiting, again + layer),
        embeddings,
    ]


def _activation_bytes(config: TrainConfig) -> int:
    """Bytes of a number that a matrix product gives."""
    return 2 if config.bf16 or config.weights == "bf16" else 4


def _residual_bytes(config: TrainConfig) -> int:
    """Bytes of a number between the layers: in the dtype of the embeddings."""
    return _weight_bytes(config)


def _kept_of_layer(shape: ModelShape, config: TrainConfig, row: RowSizes, device: Device) -> tuple[float, float]:
    """Bytes that a layer keeps of a token on average, and bytes of the masks, which all layers share."""
    act = _activation_bytes(config)
    attended, keys, masks = act, 1.0, 0.0
    if device == "cpu":
        blocks = _blocks(row)
        tokens = sum(queries for queries, _ in blocks)
        # A block's keys and values are laid together: each completion has a copy of its prompt's.
        keys = sum(seen for _, seen in blocks) / tokens
        few = sum(queries for queries, _ in blocks if queries <= _FLOAT32_QUERIES) / tokens
        attended = act if act == 4 else few * 4 + (1 - few) * act
        masks = row.tokens / tokens * sum(queries * seen for queries, seen in blocks) * (attended + 1)
    kept = 2 * shape.hidden * _residual_bytes(config)
    kept += attended * (2 * shape.query + 2 * shape.key * keys)
    kept += act * 2 * shape.intermediate
    kept += 8 * shape.kept_by_norms / shape.layers
    if config.lora_r:
        adapted = _adapted(shape, config)
        # Adapters take a copy of their inputs in their own dtype, unless that is the inputs'.
        inputs = sum(linear.inputs for linear in adapted) if act == 2 else 0
        kept += act * (inputs + config.lora_r * len(adapted)) / shape.layers
    return kept, masks


def _blocks(row: RowSizes) -> list[tuple[int, int]]:
    """(queries, keys) of the blocks of a group, as `bnf.model.segments` cuts it."""
    group = row.prompt + sum(row.completions)
    if group <= _ONE_BLOCK_TOKENS:
        return [(group, group)]
    runs: list[int] = []
    for length in row.completions:
        if runs and runs[-1] + length <= _SHARED_BLOCK_TOKENS:
            runs[-1] += length
        else:
            runs.append(length)
    return [(row.prompt, row.prompt), *((length, row.prompt + length) for length in runs)]


def _head(shape: ModelShape, config: TrainConfig, row: RowSizes, device: Device) -> tuple[float, float]:
    """Bytes that the head holds in its backward pass, and those of them that stay until the embeddings' gradient is there."""
    width, act = _weight_bytes(config), _activation_bytes(config)
    states = row.label_positions * shape.hidden
    chunk = min(row.label_positions * shape.vocabulary, max(_LOGITS[device], shape.vocabulary))
    wide = min(chunk, _LOGITS[device] // _WIDE_SHARE)
    held = float(chunk * act + states * act * 2)
    if act < width:
        held += shape.head_parameters * act
    widened = 3.0 * wide * 4
    if config.lora_r:
        return held + widened, 0.0
    gradient = 0.0 if _shares(config) > 1 else float(shape.head_parameters * width)
    several = row.label_positions * shape.vocabulary > chunk
    part = min(shape.head_parameters, _WEIGHT_PART) * (act + (width if several else 0)) if act < width else 0
    # Sharded, the gradient is the root's. Of tied embeddings it waits for theirs.
    return held + max(widened, gradient + part), gradient if shape.tied else 0.0
