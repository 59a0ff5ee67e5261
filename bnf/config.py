"""The `train` section of a recipe: what a training run is, under the names of transformers.TrainingArguments where those exist.

Nothing here imports torch, so that a recipe is checked within a fraction of a second.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal

from bnf.objectives import load_objective

# The settings that reference and training share: the rows, and the dtype they are computed in.
REFERENCE_FIELDS = ("max_tokens_per_row", "share_prompts", "bf16")
# Where and how often a training writes: nothing of what it computes depends on these.
BOOKKEEPING_FIELDS = ("save_steps", "report_to")

_AT_LEAST_1 = (
    *("global_batch_size", "max_tokens_per_row", "logging_steps", "lora_alpha"),
    *("dev_prompts", "dev_max_new_tokens", "nproc_per_node"),
)
_SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; every value is checked when it is made.

    Raises:
        ValueError: naming the key, the rule, the value and the remedy.
    """

    # The name of a file in bnf/objectives, and that objective's own options.
    objective: str = "bnf"
    objective_options: dict[str, Any] = field(default_factory=dict)
    # Weights of preferred and dispreferred completions: `none` (1), `balanced` (N / 2N_s from the data set's counts), or
    # {"preferred": a, "dispreferred": b}. Objectives over pairs have one of each in every term and take no weights.
    label_weighting: str | dict[str, float] = "none"
    # What a completion's sum is divided by: its own length, or the shortest of its pair (the paper's implementation).
    length_normalization: Literal["own", "pair_min"] = "own"

    learning_rate: float = 5e-7
    num_train_epochs: float = 1.0
    # Optimizer steps; −1 leaves it to num_train_epochs.
    max_steps: int = -1
    # In prompt groups; met by the nearest number of whole rows.
    global_batch_size: int = 128
    # Bounds the memory of a step: the longest row that is computed at once.
    max_tokens_per_row: int = 4096
    # A prompt is computed once for all of its completions; false is plain packing, which FlashAttention serves on CUDA.
    share_prompts: bool = True
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    # The fused AdamW takes a sixth of the plain one's time on a CPU.
    optim: str = "adamw_torch_fused"
    # Autocast over float32 weights.
    bf16: bool = True
    gradient_checkpointing: bool = False
    # Adapters of this rank, through peft, in place of all weights; 0 trains all weights. The names are peft's.
    lora_r: int = 0
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: str | list[str] = "all-linear"
    # Dev groups, where the data set has them, are evaluated before the first step, after the last, and after so many optimizer
    # steps; below 1, after that share of all steps.
    eval_steps: float = 0.25
    # Completions that the policy samples of dev prompts at an evaluation, and their longest; a smaller dev set's prompts are
    # sampled several times.
    dev_prompts: int = 64
    dev_max_new_tokens: int = 256
    # Processes that share the rows of each step, one per device, started with torchrun.
    nproc_per_node: int = 1
    logging_steps: int = 1
    # A checkpoint after so many optimizer steps; below 1, after that share of all steps.
    save_steps: float = 0.25
    seed: int = 0
    # `none`, or loggers of transformers, such as tensorboard or wandb.
    report_to: str | list[str] = "none"

    def __post_init__(self) -> None:
        for known in fields(self):
            _check_type(known.name, str(known.type), getattr(self, known.name))
        _check(self.learning_rate > 0, "learning_rate", "be positive", self.learning_rate, "try 5e-7 for a 1–8B model")
        _check(
            self.num_train_epochs > 0 or self.max_steps > 0,
            "num_train_epochs",
            "be positive where max_steps is not given",
            self.num_train_epochs,
            "one epoch is the default",
        )
        _check(
            self.max_steps == -1 or self.max_steps > 0,
            "max_steps",
            "be positive or -1",
            self.max_steps,
            "-1 runs num_train_epochs",
        )
        for name in _AT_LEAST_1:
            _check(getattr(self, name) >= 1, name, "be at least 1", getattr(self, name), "leave it out for the default")
        _check(
            self.lr_scheduler_type in _SCHEDULERS,
            "lr_scheduler_type",
            f"be one of {', '.join(_SCHEDULERS)}",
            self.lr_scheduler_type,
            "the field uses cosine",
        )
        _check(0 <= self.warmup_ratio < 1, "warmup_ratio", "lie in [0, 1)", self.warmup_ratio, "it is a share of all steps")
        _check(self.weight_decay >= 0, "weight_decay", "be non-negative", self.weight_decay, "0 turns it off")
        _check(self.max_grad_norm >= 0, "max_grad_norm", "be non-negative", self.max_grad_norm, "0 turns clipping off")
        for name, does in (("save_steps", "saves"), ("eval_steps", "evaluates")):
            steps = getattr(self, name)
            _check(
                0 < steps < 1 or (steps >= 1 and steps == int(steps)),
                name,
                "be a whole number of steps, or a share of all steps below 1",
                steps,
                f"0.25 {does} three times on the way",
            )
        _check(self.lora_r >= 0, "lora_r", "be at least 0", self.lora_r, "0 trains all weights, 16 is usual for adapters")
        _check(0 <= self.lora_dropout < 1, "lora_dropout", "lie in [0, 1)", self.lora_dropout, "0 keeps the step-0 check")
        _check_names("lora_target_modules", self.lora_target_modules, "use all-linear, or names such as [q_proj, v_proj]")
        _check_names("report_to", self.report_to, "use none, tensorboard, wandb, or a list of such")
        _check(
            "all" not in self.loggers, "report_to", "name the loggers", self.report_to, "use [tensorboard, wandb] or the like"
        )
        _check(
            self.length_normalization in ("own", "pair_min"),
            "length_normalization",
            "be own or pair_min",
            self.length_normalization,
            "own is the default",
        )
        _check_label_weighting(self.label_weighting)
        load_objective(self.objective, self.objective_options)

    @property
    def loggers(self) -> list[str]:
        """`report_to` as a list."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in names if name != "none"]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The configuration of a recipe's `train` section.

        Raises:
            ValueError: for a key that does not exist, naming the nearest that does; for any value that breaks its rule.
        """
        names = [known.name for known in fields(cls)]
        for key in values:
            if key.startswith("per_device_") or key == "gradient_accumulation_steps":
                raise ValueError(
                    f"{key} must be left out, got {values[key]!r}; set global_batch_size (prompt groups in a step) and "
                    "max_tokens_per_row (memory), the split between devices and accumulation follows"
                )
            if key not in names:
                nearest = get_close_matches(key, names, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(names)}"
                raise ValueError(f"train.{key} must be a known key, got {key!r}; {hint}")
        # 0 is 0.0 to whoever writes it, and must be to the keys that are made of it; a whole number of `…_steps` is no share.
        shares = {known.name for known in fields(cls) if known.type is float and not known.name.endswith("_steps")}
        given: dict[str, Any] = {
            key: float(value) if key in shares and type(value) is int else value for key, value in values.items()
        }
        return cls(**given)

    def reference_settings(self) -> dict[str, Any]:
        """What the cached reference depends on: the settings it shares with training, and whether the objective reads
        mismatched completions.
        """
        needs_mismatched = load_objective(self.objective, self.objective_options).needs_mismatched
        return {name: getattr(self, name) for name in REFERENCE_FIELDS} | {"mismatched": needs_mismatched}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` takes them."""
        return asdict(self)


def _check(holds: bool, key: str, rule: str, value: object, remedy: str) -> None:
    if not holds:
        raise ValueError(f"{key} must {rule}, got {value!r}; {remedy}")


def _check_type(key: str, declared: str, value: object) -> None:
    """Numbers and switches must be such: YAML gives `5e-7` as a string, and a quoted `"false"` is true."""
    if "str" in declared:
        return
    if "float" in declared:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        _check(is_number, key, "be a number", value, "in YAML write 5.0e-7, with a point and no quotes")
    elif "int" in declared:
        _check(isinstance(value, int) and not isinstance(value, bool), key, "be a whole number", value, "use no point")
    elif "bool" in declared:
        _check(isinstance(value, bool), key, "be true or false", value, "write it without quotes")


def _check_names(key: str, value: object, remedy: str) -> None:
    names = value if isinstance(value, list) else [value]
    valid = bool(names) and all(isinstance(name, str) and name for name in names)
    _check(valid, key, "be a name or a list of names", value, remedy)


def _check_label_weighting(value: object) -> None:
    remedy = "use none, balanced, or a mapping such as {preferred: 1, dispreferred: 0.5}"
    if isinstance(value, dict):
        _check(set(value) == {"preferred", "dispreferred"}, "label_weighting", "name preferred and dispreferred", value, remedy)
        numbers = [weight for weight in value.values() if isinstance(weight, int | float) and not isinstance(weight, bool)]
        valid = len(numbers) == 2 and min(numbers) >= 0 and max(numbers) > 0
        _check(valid, "label_weighting", "hold numbers of at least 0, one of them above", value, remedy)
    else:
        _check(value in ("none", "balanced"), "label_weighting", "be none, balanced or a mapping", value, remedy)
