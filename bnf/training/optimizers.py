"""Optimizers of weights in bf16.

A bf16 number has 8 significant bits: around 0.05 two of them lie 2.4e-4 apart. An update of 5e-7 is lost whenever it is rounded to them.
The optimizers here keep what rounding takes (Kahan summation), or round up or down at random so that it is kept on average (stochastic
rounding). All are other people's.
"""

import torch
from transformers import Trainer, TrainingArguments

from bnf.training.config import TrainConfig

# torch's own, which Kahan's replaces: the same update, to the rounding of its moments to bf16.
_KAHAN = ("adamw_torch_fused", "adamw_torch")
_STOCHASTIC = ("adamw_torch_8bit", "adamw_torch_4bit")

_Optimizer = tuple[type[torch.optim.Optimizer], dict[str, object]]


def rounding_optimizer(config: TrainConfig, arguments: TrainingArguments) -> _Optimizer | None:
    """The optimizer of weights in bf16, and its settings; None where transformers' own of that name is right.

    `adamw_torch_fused` and `adamw_torch` stand for torch-optimi's AdamW with Kahan summation, `adamw_torch_8bit` and `adamw_torch_4bit`
    for torchao's with stochastic rounding. `stable_adamw` is torch-optimi's, which sums by Kahan's method by itself. Adapters are
    float32 and need none of this.

    Raises:
        ImportError: its package is not installed.
    """
    if config.weights != "bf16" or config.lora_r:
        return None
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    settings: dict[str, object] = {"lr": config.learning_rate, "betas": betas, "eps": arguments.adam_epsilon}
    if config.optim in _KAHAN:
        try:
            from optimi import AdamW
        except ImportError as error:
            raise ImportError("weights in bf16 need the package torch-optimi: pip install torch-optimi") from error
        return AdamW, {**settings, "kahan_sum": True}
    if config.optim in _STOCHASTIC:
        optimizer, _ = Trainer.get_optimizer_cls_and_kwargs(arguments)
        return optimizer, {**settings, "bf16_stochastic_round": True}
    return None
