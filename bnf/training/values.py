"""Rules that values of a recipe's settings keep, and the errors of those that don't: key, rule, value, remedy."""

import math
from collections.abc import Sequence

from bnf.nearest import did_you_mean
from bnf.training.fields import BF16_OPTIMIZERS

# What other programs call a setting, and what to set here in its place.
_PROCESSES = "set nproc_per_node (processes on each node, one per device) and num_nodes"
_SHARDS = "set sharding (full is FSDP's FULL_SHARD and DeepSpeed's ZeRO-3) and cpu_offload"
_BATCHES = (
    "set global_batch_size (prompt groups in a step) and max_tokens_per_row (memory), the split between devices and accumulation "
    "follows"
)
_ELSEWHERE = {
    **dict.fromkeys(("world_size", "num_processes", "gpus", "num_gpus", "n_gpus", "ngpu", "devices", "nproc"), _PROCESSES),
    **dict.fromkeys(("fsdp", "fsdp_config", "fsdp_version", "deepspeed", "deepspeed_config", "zero_stage", "zero3"), _SHARDS),
    **dict.fromkeys(("nnodes", "num_machines"), "set num_nodes"),
    **dict.fromkeys(
        ("master_addr", "master_port", "main_process_ip", "main_process_port", "rdzv_backend"),
        "set rdzv_endpoint=HOST:PORT, where the nodes meet",
    ),
    **dict.fromkeys(
        ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"),
        "layers and rows aren't split between devices here; set sharding=full, which shares out the weights",
    ),
    "gradient_accumulation_steps": _BATCHES,
    "train_batch_size": _BATCHES,
}
# What other programs call the choices of a setting.
_CHOICES = {
    "sharding": {
        **dict.fromkeys(("fsdp", "fsdp2", "full_shard", "zero3", "zero_3", "deepspeed"), "full"),
        **dict.fromkeys(("hsdp", "hybrid_shard"), "hybrid"),
        **dict.fromkeys(("ddp", "no", "no_shard"), "none"),
    },
    "weights": {
        **dict.fromkeys(("bfloat16", "torch.bfloat16"), "bf16"),
        **dict.fromkeys(("float32", "torch.float32", "float"), "fp32"),
    },
    "keep_best": {
        **dict.fromkeys(("loss", "dev_loss"), "eval_loss"),
        **dict.fromkeys(("accuracy", "dev_accuracy", "eval_rewards/accuracies", "rewards/accuracies"), "eval_accuracy"),
        **dict.fromkeys(("last", "no"), "none"),
    },
    "attention": {"flash_attention_2": "varlen", "flex_attention": "flex"},
}


def check(holds: bool, key: str, rule: str, value: object, remedy: str) -> None:
    if not holds:
        raise ValueError(f"{key} must {rule}, got {written(value)}; {remedy}")


def written(value: object) -> str:
    """A value as a recipe has it: a switch is true or false."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def check_default(key: str, value: object, default: object, where: str, otherwise: str = "") -> None:
    """Refuses a setting that nothing reads in this training, where it isn't the default; `otherwise` says what would read it."""
    at = default if isinstance(default, str) else written(default)
    remedy = "leave it out" if default is None else f"write train.{key}={at}, or leave it out"
    rule = f"be left {'out' if default is None else f'at {at}'} {where}"
    check(value == default, key, rule, value, f"{remedy}; {otherwise}" if otherwise else remedy)


def check_choice(key: str, value: object, choices: Sequence[str], *, otherwise: str = "leave it out for the default") -> None:
    """Refuses a value that isn't among `choices`; the error says which of them was meant, by another program's name or a slip of the
    pen, and where that isn't known `otherwise`."""
    meant = _CHOICES.get(key, {}).get(str(value).lower().replace("-", "_"))
    remedy = f"write train.{key}={meant}" if meant else did_you_mean(str(value), choices) or otherwise
    check(value in choices, key, f"be one of {', '.join(choices)}", value, remedy)


def kind(declared: object) -> str:
    """A declared type's name: "float" for float, and for the text "float"."""
    return str(getattr(declared, "__name__", declared))


def plain(value: object, declared: str, key: str = "") -> object:
    """A recipe's value in the declared type, so that equal values make equal keys: 0 is 0.0 and 1e3 is 1000. In `…_steps` whole
    numbers are steps and stay whole; others are shares.
    """
    if declared.startswith("float"):
        if key.endswith("_steps"):
            return int(value) if type(value) is float and value >= 1 and value.is_integer() else value
        return float(value) if type(value) is int else value
    if declared.startswith("int") or key == "max_tokens_per_row":
        return int(value) if type(value) is float and value.is_integer() else value
    return value


def check_type(key: str, declared: str, value: object) -> None:
    """Refuses a value of another type than declared; a quoted `"false"` would count as true."""
    if value is None and declared.endswith(" | None"):
        return
    declared = declared.removesuffix(" | None")
    if declared == "str":
        check(isinstance(value, str), key, "be a name", value, "write one word")
    elif declared == "dict":
        check(isinstance(value, dict), key, "be a mapping", value, "write {name: value}, or leave it out")
    elif declared == "float":
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        check(is_number, key, "be a number", value, "write one such as 0.1 or 5e-7")
    elif declared == "int":
        check(isinstance(value, int) and not isinstance(value, bool), key, "be a whole number", value, "use no point")
    elif declared == "bool":
        check(isinstance(value, bool), key, "be true or false", value, "write it without quotes")


def check_names(key: str, value: object, remedy: str) -> None:
    names = value if isinstance(value, list) else [value]
    valid = bool(names) and all(isinstance(name, str) and name for name in names)
    check(valid, key, "be a name or a list of names", value, remedy)


def check_weights(weights: str, optim: str, *, bf16: bool, adapters: bool) -> None:
    """Refuses what can't be computed with weights in bf16."""
    if weights == "bf16":
        rule = "be fp32 where bf16 is false, as weights that were rounded to bf16 can't be computed in float32"
        check(bf16, "weights", rule, weights, "write train.weights=fp32, or train.bf16=true")
        if not adapters:
            rule = f"be one of {', '.join(BF16_OPTIMIZERS)} where weights is bf16: others lose updates to its rounding"
            check(optim in BF16_OPTIMIZERS, "optim", rule, optim, "leave it out, or write train.weights=fp32")


def check_label_weighting(value: object) -> None:
    remedy = "use none, balanced, or a mapping such as {preferred: 1, dispreferred: 0.5}"
    if isinstance(value, dict):
        check(set(value) == {"preferred", "dispreferred"}, "label_weighting", "name preferred and dispreferred", value, remedy)
        numbers = [weight for weight in value.values() if isinstance(weight, int | float) and not isinstance(weight, bool)]
        valid = len(numbers) == 2 and all(map(math.isfinite, numbers)) and min(numbers) >= 0 and max(numbers) > 0
        check(valid, "label_weighting", "hold numbers of at least 0, one of them above", value, remedy)
    else:
        check(value in ("none", "balanced"), "label_weighting", "be none, balanced or a mapping", value, remedy)


def check_known(key: str, value: object, names: Sequence[str]) -> None:
    """Refuses a key of the `train` section that isn't among `names`, with the nearest that is."""
    name = key.lower()
    elsewhere = _BATCHES if name.startswith("per_device_") else _ELSEWHERE.get(name)
    if elsewhere is not None:
        raise ValueError(f"train.{key} must be left out, got {written(value)}; {elsewhere}")
    if key not in names:
        hint = did_you_mean(key, names) or f"known keys: {', '.join(names)}"
        raise ValueError(f"train.{key} must be a known key, got {key!r}; {hint}")
