"""What one row holds while its forward and backward pass go on, by arithmetic: activations, the head's logits, gathered layers.

The counterpart of `bnf.model.lean` (what a layer keeps) and of `bnf.model.logps` (the head).
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from bnf.model.shapes import Linear, ModelShape
from bnf.training.config import TrainConfig

Device = Literal["cpu", "cuda"]

# Of `bnf.model.logps`: logits that exist at once, the part of them that is widened to float32, and products of the head's gradient.
_LOGITS = {"cpu": 2**25, "cuda": 2**27}
_WIDE_SHARE = 64
_WEIGHT_PART = 2**21


@dataclass(frozen=True)
class RowSizes:
    """The tokens of a row, and how its groups are built: a prompt, and completions behind it."""

    tokens: int
    prompt: int
    completions: tuple[int, ...]

    @property
    def label_positions(self) -> int:
        """Completion tokens of the row, whose logits are computed."""
        return round(self.tokens * sum(self.completions) / (self.prompt + sum(self.completions)))


@dataclass(frozen=True)
class Moment:
    """Bytes that a row holds at a moment of its forward and backward pass; `bnf.training.memory.Memory` says what they are."""

    activations: float = 0.0
    head: float = 0.0
    backward: float = 0.0
    gathered: float = 0.0
    root: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.activations + self.head + self.backward + self.gathered + self.root


def num_shares(config: TrainConfig) -> int:
    """Over how many processes weights, gradients and optimizer are split."""
    return {"none": 1, "full": config.num_processes, "hybrid": config.nproc_per_node}[config.sharding]


def weight_bytes(config: TrainConfig) -> int:
    """Bytes of a weight of the model. Those of adapters are float32."""
    return 2 if config.weights == "bf16" else 4


def adapted(shape: ModelShape, config: TrainConfig) -> list[Linear]:
    """The matrix products that get adapters, by peft's rules of names."""
    wanted = config.lora_target_modules
    modules = [linear for linear in shape.linears if linear.is_module]
    if isinstance(wanted, list):
        return [linear for linear in modules if any(f".{linear.name}".endswith(f".{name}") for name in wanted)]
    return modules if wanted == "all-linear" else [linear for linear in modules if re.fullmatch(wanted, linear.name)]


def fullest_moment(shape: ModelShape, config: TrainConfig, row: RowSizes, device: Device) -> Moment:
    """The moment at which a row holds the most: in the head, in the last layer's backward pass, or in the embeddings' gradient."""
    width, act = weight_bytes(config), _activation_bytes(config)
    is_sharded, learns = config.sharded, config.lora_r == 0
    kept = _kept_of_layer(shape, config)
    activations = shape.layers * row.tokens * (shape.hidden * width if config.gradient_checkpointing else kept)
    head = shape.head_parameters * width
    own_unit = (shape.root_parameters if shape.tied else shape.head_parameters + shape.hidden) * width if is_sharded else 0.0

    # Sharded, the head's unit is there from the forward pass on, and its gradient lies in the buffer too by which it is shared out.
    in_head = Moment(activations, _head(shape, config, row, device), root=own_unit + (head if is_sharded and learns else 0))
    # A layer's gate and up computed again, and the gradients of its MLP and of the residual stream.
    backward = float(row.tokens * (2.5 * shape.intermediate * act + 3 * shape.hidden * 4))
    # Of the largest matrix a copy and the gradient in the dtype of the products, and the gradient in its own.
    cast = act if act < width else 0
    backward += max(linear.parameters for linear in shape.linears) * (cast + (width + cast if learns else 0))
    if config.gradient_checkpointing:
        # What is computed again of a layer is all kept, its norms' and gates' outputs too.
        backward += row.tokens * (kept + act * (2 * shape.hidden + shape.intermediate / 2 + shape.query))
    # The head's gradient waits for that of embeddings which are tied to it. That of others is as large, and so is a shared one's part.
    waiting = float(head) if shape.tied and learns else 0.0
    is_joined = shape.tied and not is_sharded
    in_layer = Moment(activations, waiting, backward)
    in_embeddings = Moment(head=waiting + (head if learns and not is_joined else 0))
    if is_sharded:
        layer = shape.largest_layer * width
        # The layer, the next one, and its gradients in the buffer too.
        in_layer = replace(in_layer, gathered=layer * (4 if learns else 2), root=own_unit if shape.tied else 0.0)
        in_embeddings = replace(in_embeddings, root=float(own_unit if shape.tied else head) + (head if learns else 0))
    return max(in_head, in_layer, in_embeddings, key=lambda moment: moment.total)


def _activation_bytes(config: TrainConfig) -> int:
    """Bytes of a number that a matrix product gives."""
    return 2 if config.bf16 or config.weights == "bf16" else 4


def _kept_of_layer(shape: ModelShape, config: TrainConfig) -> float:
    """Bytes that a layer keeps of a token on average."""
    act = _activation_bytes(config)
    # The residual stream in the dtype of the embeddings, or as projections read it.
    kept = float(2 * shape.hidden * (weight_bytes(config) if shape.begins_with_norm else act))
    # Queries, keys, values and what attention gives; what the MLP keeps.
    kept += act * (2 * shape.query + 2 * shape.key + shape.intermediate)
    kept += act * shape.kept_by_norms / shape.layers
    if config.lora_r:
        modules = adapted(shape, config)
        # Adapters take a copy of their inputs in their own dtype, unless that is the inputs'.
        inputs = sum(linear.inputs for linear in modules) if act == 2 else 0
        kept += act * (inputs + config.lora_r * len(modules)) / shape.layers
    return kept


def _head(shape: ModelShape, config: TrainConfig, row: RowSizes, device: Device) -> float:
    """Bytes that the head holds in its backward pass, the gradient of its weights among them."""
    width, act = weight_bytes(config), _activation_bytes(config)
    logits = row.label_positions * shape.vocabulary
    chunk = min(logits, max(_LOGITS[device], shape.vocabulary))
    held = float(chunk * act + 2 * row.label_positions * shape.hidden * act)
    held += shape.head_parameters * act if act < width else 0
    widened = 3.0 * min(chunk, _LOGITS[device] // _WIDE_SHARE) * 4
    if config.lora_r:
        return held + widened
    # Over several chunks it is added up in float32, in parts, and rounded to the weights' dtype.
    several = logits > chunk
    gradient = shape.head_parameters * (width if width == 4 or not several else 4 + width)
    part = min(shape.head_parameters, _WEIGHT_PART) * (act + (4 if several else 0)) if act < 4 else 0
    return held + max(widened, float(gradient + part))
