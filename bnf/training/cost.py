"""How long a training takes, by arithmetic: steps, tokens, floating-point operations, and hours at an assumed rate."""

import math
from dataclasses import dataclass

from bnf.data.sizes import DataSizes
from bnf.model.shapes import ModelShape
from bnf.objectives import load_objective
from bnf.training.config import TrainConfig
from bnf.training.gpus import ASSUMED_SHARE, Gpu


@dataclass(frozen=True)
class Cost:
    """What a training on known or assumed data computes.

    Attributes:
        steps: optimizer steps.
        tokens: tokens of all of its rows, each epoch's.
        reference_flops: floating-point operations of the reference pass, which is cached once; 0 where nothing needs it.
        training_flops: of all steps, with what checkpointing computes again.
    """

    steps: int
    tokens: int
    reference_flops: float
    training_flops: float

    @property
    def flops(self) -> float:
        """All floating-point operations."""
        return self.reference_flops + self.training_flops

    def hours(self, gpu: Gpu, devices: int) -> float:
        """The time on so many GPUs at `ASSUMED_SHARE` of their peak rate. Evaluations and samples of dev prompts are not counted."""
        return self.flops / (gpu.tflops * 1e12 * ASSUMED_SHARE * devices) / 3600


def cost(shape: ModelShape, config: TrainConfig, data: DataSizes) -> Cost:
    """What a training on these data computes. Products of matrices and attention count, two operations for each product of numbers."""
    per_epoch = config.steps_per_epoch(data.groups)
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * per_epoch)
    epochs = steps / per_epoch
    products, attention, head = _forward(shape, data)
    layers = products + attention
    # Backward, every product has two more; that for frozen weights isn't needed.
    passes = 3 if config.lora_r == 0 else 2
    training = passes * (products + head) + 3 * attention + (layers if config.gradient_checkpointing else 0)
    reads_reference = load_objective(config.objective, config.objective_options).needs_cache
    # The KL pairs are as many tokens as the rows: the reference scores them once, the policy in each step.
    pairs = layers + head if config.needs_kl_pairs else 0.0
    return Cost(
        steps=steps,
        tokens=round(data.tokens * epochs),
        reference_flops=layers + head + pairs if reads_reference else 0.0,
        training_flops=epochs * (training + pairs),
    )


def _forward(shape: ModelShape, data: DataSizes) -> tuple[float, float, float]:
    """Operations of a forward pass over all groups: in the layers' products, in attention, and in the head. A window, which hides some of
    what is seen, counts for nothing."""
    products = 2.0 * shape.met_parameters * data.tokens
    attention = 4.0 * shape.query * shape.layers * data.attended
    return products, attention, 2.0 * shape.head_parameters * data.completion_tokens
