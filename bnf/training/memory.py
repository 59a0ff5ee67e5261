"""How much memory a training takes, by arithmetic on the model's shape and the settings: on each device, on the host and on the disk.

Nothing is loaded and torch isn't imported, so a plan can ask. `python -m tests.performance.memory` compares it with measured peaks
(docs/performance/memory.md).
"""

from dataclasses import dataclass, fields

from bnf.model.shapes import ModelShape
from bnf.training.config import TrainConfig
from bnf.training.optimizer_states import state_bytes
from bnf.training.row_memory import Device, RowSizes, adapted, fullest_moment, num_shares, weight_bytes

# A weight in 4 bits with its constants, each for 64 weights and themselves in 8 bits (QLoRA, arXiv 2305.14314, section 3).
_FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
_ADAPTER_BYTES = 4
# What a process has before the model: the CUDA context and its libraries' workspaces; on a CPU the imported libraries.
_OVERHEAD = {"cpu": 700 * 2**20, "cuda": 2**30}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, in one process, at the fullest moment of a step. `total` is their sum.

    Attributes:
        weights, gradients, optimizer: what this process holds of them: all, or its share.
        buckets: the copy of the gradients that DistributedDataParallel exchanges.
        gathered: layers whose shares are brought together while they are computed, and their gradients before these are shared out.
        root: embeddings, last norm and head, as far as they are brought together, and the buffer of their gradient.
        activations: what the layers keep of a row for the backward pass.
        head: logits and their gradient, a chunk at a time, the head's weights in their dtype, and its gradient.
        backward: what exists for a moment in the backward pass.
        overhead: what a process has before the model.
    """

    weights: float
    gradients: float
    optimizer: float
    buckets: float
    gathered: float
    root: float
    activations: float
    head: float
    backward: float
    overhead: float

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return sum(getattr(self, known.name) for known in fields(self))

    def to_json(self) -> dict[str, int]:
        """The parts and the total, in whole bytes."""
        return {known.name: round(getattr(self, known.name)) for known in fields(self)} | {"total": round(self.total)}


@dataclass(frozen=True)
class Estimate:
    """What a training takes.

    Attributes:
        device: the memory of each device.
        row: the row that it was computed for.
        host: of each process, beside a device that isn't the CPU: the libraries, the weights while they are loaded, and the shares that
            `cpu_offload` keeps there. Sharded, the first process alone loads them.
        checkpoint: of the whole training, on the disk: weights that are trained, and optimizer. For a moment there are two.
        policy: the files of the trained model.
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
    return sum(config.lora_r * (linear.inputs + linear.outputs) for linear in adapted(shape, config))


def estimate(shape: ModelShape, config: TrainConfig, row: RowSizes, device: Device) -> Estimate:
    """What each process takes to train this model with these settings on rows of these sizes, several of them a step."""
    width = weight_bytes(config)
    trained = trained_parameters(shape, config)
    trained_width = _ADAPTER_BYTES if config.lora_r else width
    adapters = trained * _ADAPTER_BYTES if config.lora_r else 0
    held = float(shape.parameters * width)
    if config.load_in_4bit:
        held -= sum(linear.parameters for linear in shape.linears if linear.is_module) * (width - _FOUR_BITS)
    shares, states = num_shares(config), state_bytes(shape, config, trained)
    weights, gradients, optimizer = (part / shares for part in (held + adapters, trained * trained_width, states))
    offloaded = 0.0
    if config.cpu_offload and device != "cpu":
        offloaded = weights + gradients + optimizer
        weights = gradients = optimizer = 0.0
    moment = fullest_moment(shape, config, row, device)
    memory = Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        buckets=float(trained * trained_width) if config.num_processes > 1 and not config.sharded else 0.0,
        gathered=moment.gathered,
        root=moment.root,
        activations=moment.activations,
        head=moment.head,
        backward=moment.backward,
        overhead=_OVERHEAD[device],
    )
    # Sharded, weights are read in the dtype of their files and handed out one by one.
    loading = shape.parameters * (shape.stored_bytes if config.sharded else width)
    return Estimate(
        device=memory,
        row=row,
        host=_OVERHEAD["cpu"] + (0.0 if device == "cpu" else max(loading, offloaded)),
        checkpoint=trained * trained_width + states,
        policy=float(shape.parameters * shape.stored_bytes + adapters),
    )
