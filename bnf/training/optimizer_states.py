"""How much memory an optimizer's states take, by the names that transformers has for optimizers; without importing any."""

from bnf.model.shapes import ModelShape
from bnf.training.config import TrainConfig

# How many states of a number for each weight.
_STATES = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adamw_apex_fused"), 2),
    **dict.fromkeys(("stable_adamw", "schedule_free_adamw", "schedule_free_radam"), 2),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit"), 3),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit", "adamw_bnb_32bit"), 2),
    **dict.fromkeys(("lion", "lion_32bit", "paged_lion", "paged_lion_32bit", "adagrad", "rmsprop", "rmsprop_bnb_32bit"), 1),
    # Without momentum, as transformers makes it; factored moments are a row and a column.
    **dict.fromkeys(("sgd", "schedule_free_sgd", "adafactor"), 0),
}
# With weights in bf16 these keep what rounding takes, as one state more.
_KEEP_ROUNDING = ("adamw_torch", "adamw_torch_fused", "stable_adamw")
# Bytes of a state with its float32 constants, each for 256 numbers of 8 bits, or 128 of 4.
_EIGHT_BITS, _FOUR_BITS = 1 + 4 / 256, 0.5 + 4 / 128
_SMALL = {
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), 2 * _EIGHT_BITS),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), 3 * _EIGHT_BITS),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), _EIGHT_BITS),
    "adamw_torch_4bit": 2 * _FOUR_BITS,
}
# transformers has bitsandbytes keep the states of embeddings in float32.
_OF_TORCHAO = ("adamw_torch_8bit", "adamw_torch_4bit")


def state_bytes(shape: ModelShape, config: TrainConfig, trained: int) -> float:
    """Bytes of the states of `trained` weights: all of the model, or those of its adapters, which are float32. An optimizer that isn't
    known counts as AdamW."""
    width = 2 if config.weights == "bf16" and config.lora_r == 0 else 4
    if config.optim not in _SMALL:
        kept = 1 if width == 2 and config.optim in _KEEP_ROUNDING else 0
        return float(trained * width * (_STATES.get(config.optim, 2) + kept))
    small = _SMALL[config.optim]
    if config.lora_r or config.optim in _OF_TORCHAO:
        return trained * small
    whole = shape.head_parameters
    return (trained - whole) * small + whole * 4 * round(small)


def knows_optimizer(config: TrainConfig) -> bool:
    """Whether `state_bytes` knows the optimizer."""
    return config.optim in _STATES or config.optim in _SMALL
