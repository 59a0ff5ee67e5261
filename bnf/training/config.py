"""The `train` section of a recipe: a training's settings, under the names of transformers.TrainingArguments where those exist.

Nothing here imports torch, so a recipe is checked within a fraction of a second.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Literal, get_args, get_type_hints

from bnf.objectives import load_objective, option_types
from bnf.parallel.placement import HOST_PORT, Placement
from bnf.training.choosing import KeepBest, num_evaluations
from bnf.training.fields import (
    AUTO,
    BOOKKEEPING_FIELDS,
    CHOOSING_FIELDS,
    DERIVED_FIELDS,
    EVALUATION_FIELDS,
    PLACEMENT_FIELDS,
    READ_BY_SOME,
    REFERENCE_FIELDS,
)
from bnf.training.loggers import check_logger_names
from bnf.training.schedule import SCHEDULES
from bnf.training.values import (
    check,
    check_choice,
    check_default,
    check_known,
    check_label_weighting,
    check_names,
    check_type,
    check_weights,
    kind,
    plain,
)

# Names that other programs have for a setting.
_OTHER_NAMES = {"activation_checkpointing": "gradient_checkpointing"}
# More groups in a row make it no faster. Larger batches are several rows, so batches of different sizes have the same rows.
_MOST_GROUPS_PER_ROW = 32
_AT_LEAST_1 = (
    *("global_batch_size", "logging_steps", "lora_alpha"),
    *("dev_prompts", "dev_max_new_tokens", "early_stopping_patience", "nproc_per_node", "num_nodes"),
)
# Dev prompts that are sampled where the recipe gives no number: of 64 samples, a share of 10 % has a standard error of 4 points.
_MOST_DEV_SAMPLES = 64


def _about(description: str) -> dict[str, str]:
    """The metadata of a field: a description that the JSON schema and the run form show."""
    return {"description": description}


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one training, checked when it is made.

    Raises:
        ValueError: a value breaks its rule; the message names key, rule, value and remedy.
    """

    objective: str = field(default="bnf", metadata=_about("a file in bnf/objectives"))
    objective_options: dict[str, object] = field(default_factory=dict, metadata=_about("the objective's own options, by name"))
    label_weighting: str | dict[str, float] = field(
        default="none",
        metadata=_about(
            "weights of preferred and dispreferred completions: none (1), balanced (N / 2N_s from the data's counts), or "
            '{"preferred": a, "dispreferred": b}; objectives over pairs have one of each in every term and take none'
        ),
    )
    length_normalization: Literal["own", "pair_min"] = field(
        default="own",
        metadata=_about(
            "what a completion's sum is divided by: its own length, or the shortest of its pair (the paper's implementation)"
        ),
    )

    learning_rate: float = field(default=5e-7, metadata=_about("the highest; 5e-7 suits a 1–8B model"))
    num_train_epochs: float = field(default=1.0, metadata=_about("passes over the data"))
    max_steps: int = field(default=-1, metadata=_about("optimizer steps; -1 leaves it to num_train_epochs"))
    global_batch_size: int = field(
        default=128,
        metadata=_about("prompt groups in a step, over all devices; an epoch's groups are spread evenly over its steps"),
    )
    max_tokens_per_row: int | Literal["auto"] = field(
        default=4096,
        metadata=_about(
            "the longest row that is computed at once: it bounds the memory of a step; auto finds the largest that fits by trial steps"
        ),
    )
    share_prompts: bool = field(
        default=True,
        metadata=_about(
            "compute a prompt once for all of its completions; false is plain packing, which FlashAttention serves on CUDA"
        ),
    )
    lr_scheduler_type: str = field(default="cosine", metadata=_about(f"one of {', '.join(SCHEDULES)}"))
    warmup_ratio: float = field(default=0.1, metadata=_about("share of all steps in which the learning rate rises"))
    weight_decay: float = field(default=0.0, metadata=_about("AdamW's; 0 turns it off"))
    max_grad_norm: float = field(default=1.0, metadata=_about("longer gradients are clipped to it; 0 turns that off"))
    # The fused AdamW takes a sixth of the plain one's time on a CPU.
    optim: str = field(default="adamw_torch_fused", metadata=_about("one of transformers' optimizers, by its name"))
    bf16: bool = field(default=True, metadata=_about("autocast to bfloat16"))
    weights: Literal["fp32", "bf16"] = field(
        default="fp32",
        metadata=_about(
            "the dtype that weights are held in: fp32, or bf16 with an optimizer that makes up for its rounding, in less memory and "
            "less exact; adapters are fp32 always"
        ),
    )
    attention: Literal["auto", "flex", "varlen", "blocks"] = field(
        default="auto",
        metadata=_about(
            "the kernels of attention on CUDA; auto takes the fastest that works there, and blocks work everywhere"
        ),
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata=_about(
            "compute layers again in the backward pass: less memory, more time; activation_checkpointing is another name for it"
        ),
    )
    sharding: Literal["none", "full", "hybrid"] = field(
        default="none",
        metadata=_about(
            "how the processes hold weights, gradients and optimizer: each all of them, each a share (full), or each a share of its "
            "node's copy (hybrid)"
        ),
    )
    cpu_offload: bool = field(
        default=False,
        metadata=_about("keep the shares in the CPU's memory while they are not used: less GPU memory, more time"),
    )
    # The names are peft's.
    lora_r: int = field(default=0, metadata=_about("train adapters of this rank in place of all weights; 0 trains all weights"))
    lora_alpha: int = field(default=32, metadata=_about("what adapters give is multiplied by lora_alpha / lora_r"))
    lora_dropout: float = field(default=0.0, metadata=_about("dropout before the adapters; 0 keeps the step-0 check"))
    lora_target_modules: str | list[str] = field(
        default="all-linear", metadata=_about("modules that get adapters: all-linear, or names")
    )
    load_in_4bit: bool = field(
        default=False, metadata=_about("hold the frozen weights beside adapters in 4 bits (QLoRA, arXiv 2305.14314)")
    )
    eval_steps: float = field(
        default=0.25,
        metadata=_about(
            "dev groups are evaluated first, last, and after so many optimizer steps; below 1, after that share of all steps"
        ),
    )
    dev_prompts: int | None = field(
        default=None,
        metadata=_about(
            "completions sampled of dev prompts at an evaluation; left out, one of each dev prompt, of 64 at most; more than there "
            "are prompts samples them several times"
        ),
    )
    dev_max_new_tokens: int = field(default=256, metadata=_about("the longest of these samples, in tokens"))
    keep_best: KeepBest = field(
        default="none",
        metadata=_about(
            "take the policy with the best dev accuracy (preferred above dispreferred rewards) or loss; none: the last"
        ),
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata=_about("with keep_best: stop after so many evaluations in a row without a better figure; left out, all steps"),
    )
    nproc_per_node: int = field(
        default=1,
        metadata=_about("processes on each node that share the rows of each step, one per device, started with torchrun"),
    )
    num_nodes: int = field(default=1, metadata=_about("machines that train together"))
    rdzv_endpoint: str | None = field(
        default=None, metadata=_about("HOST:PORT where the nodes meet; left out, the environment of Slurm or torchrun says it")
    )
    logging_steps: int = field(default=1, metadata=_about("optimizer steps between two records of the metrics"))
    save_steps: float = field(
        default=0.25, metadata=_about("a checkpoint after so many optimizer steps; below 1, after that share of all steps")
    )
    seed: int = field(default=0, metadata=_about("of the rows' order and of dropout"))
    report_to: str | list[str] = field(
        default="none", metadata=_about("none, or loggers of transformers, such as tensorboard or wandb")
    )

    def __post_init__(self) -> None:
        for known in fields(self):
            check_type(known.name, kind(known.type), getattr(self, known.name))
        self._require(self.learning_rate > 0, "learning_rate", "be positive", "try 5e-7 for a 1–8B model")
        ends = self.num_train_epochs > 0 or self.max_steps > 0
        self._require(ends, "num_train_epochs", "be positive where max_steps is not given", "one epoch is the default")
        self._require(self.max_steps == -1 or self.max_steps > 0, "max_steps", "be positive or -1", "-1 runs num_train_epochs")
        if self.max_tokens_per_row != AUTO:
            rule = f"be a whole number of at least 1, or {AUTO}"
            number = self.max_tokens_per_row
            valid = isinstance(number, int) and not isinstance(number, bool) and number >= 1
            self._require(valid, "max_tokens_per_row", rule, "leave it out for the default")
        for name in _AT_LEAST_1:
            value = getattr(self, name)
            self._require(value is None or value >= 1, name, "be at least 1", "leave it out for the default")
        schedules = f"be one of {', '.join(SCHEDULES)}"
        self._require(self.lr_scheduler_type in SCHEDULES, "lr_scheduler_type", schedules, "the field uses cosine")
        self._require(0 <= self.warmup_ratio < 1, "warmup_ratio", "lie in [0, 1)", "it is a share of all steps")
        self._require(self.weight_decay >= 0, "weight_decay", "be non-negative", "0 turns it off")
        self._require(self.max_grad_norm >= 0, "max_grad_norm", "be non-negative", "0 turns clipping off")
        for name, does in (("save_steps", "saves"), ("eval_steps", "evaluates")):
            steps = getattr(self, name)
            valid = 0 < steps < 1 or (steps >= 1 and steps == int(steps))
            rule = "be a whole number of steps, or a share of all steps below 1"
            self._require(valid, name, rule, f"0.25 {does} three times on the way")
        self._require(self.lora_r >= 0, "lora_r", "be at least 0", "0 trains all weights, 16 is usual for adapters")
        self._require(0 <= self.lora_dropout < 1, "lora_dropout", "lie in [0, 1)", "0 keeps the step-0 check")
        check_names("lora_target_modules", self.lora_target_modules, "use all-linear, or names such as [q_proj, v_proj]")
        check_names("report_to", self.report_to, "use none, tensorboard, wandb, or a list of such")
        check_logger_names(self.loggers)
        known_length = self.length_normalization in ("own", "pair_min")
        self._require(known_length, "length_normalization", "be own or pair_min", "own is the default")
        check_label_weighting(self.label_weighting)
        for name in ("weights", "attention", "sharding", "keep_best"):
            check_choice(name, getattr(self, name), get_args(get_type_hints(type(self))[name]))
        if self.attention == "varlen":
            where = "FlashAttention computes rows whose prompts are not shared, in half precision"
            remedy = "write train.share_prompts=false and train.bf16=true, or train.attention=auto"
            self._require(not self.share_prompts and self.bf16, "attention", f"be auto, flex or blocks here: {where}", remedy)
        rule = f"be at most global_batch_size ({self.global_batch_size}), so that each process has a group in every step"
        if self.num_nodes > 1:
            rule = f"times num_nodes ({self.num_nodes}) {rule}"
        enough = self.num_processes <= self.global_batch_size
        self._require(enough, "nproc_per_node", rule, "lower it, or raise global_batch_size")
        named = self.rdzv_endpoint is None or HOST_PORT.fullmatch(self.rdzv_endpoint) is not None
        self._require(named, "rdzv_endpoint", "be HOST:PORT", "write such as node1:29500")
        check_weights(self.weights, self.optim, bf16=self.bf16, adapters=self.lora_r > 0)
        rule = "be none where load_in_4bit is true, as shards of 4-bit weights gave zero losses and NaN gradients in silence"
        sharded_in_4bit = self.load_in_4bit and self.sharded
        self._require(not sharded_in_4bit, "sharding", rule, "leave it out, or write train.load_in_4bit=false")
        self._check_unread()

    def _require(self, holds: bool, key: str, rule: str, remedy: str) -> None:
        check(holds, key, rule, getattr(self, key), remedy)

    def _check_unread(self) -> None:
        """Refuses a setting that nothing reads: the run would look as if it had been tried."""
        reads = load_objective(self.objective, self.objective_options).reads
        for name in READ_BY_SOME:
            if name not in reads:
                self._check_unset(name, f"for objective {self.objective!r}, which doesn't read it")
        if self.lora_r == 0:
            for name in ("lora_alpha", "lora_dropout", "lora_target_modules", "load_in_4bit"):
                self._check_unset(name, "where lora_r is 0 and there are no adapters", "train.lora_r=16 trains adapters")
        if self.max_steps > 0:
            self._check_unset("num_train_epochs", f"where max_steps ({self.max_steps}) says how long training goes on")
        if self.lr_scheduler_type == "constant" and self.warmup_ratio != 0:
            self._check_unset(
                "warmup_ratio", "where lr_scheduler_type is constant, without a warm-up (constant_with_warmup has one)"
            )
        if self.keep_best == "none":
            self._check_unset("early_stopping_patience", "where keep_best is none and no figure is watched", "or set keep_best")
        if not self.sharded:
            self._check_unset("cpu_offload", "where sharding is none: there are no shares", "train.sharding=full makes some")
        if self.num_nodes == 1:
            self._check_unset("rdzv_endpoint", "where num_nodes is 1 and there is nobody to meet", "or raise train.num_nodes")
            rule = "be none or full where num_nodes is 1: hybrid sharding keeps a copy per node"
            self._require(self.sharding != "hybrid", "sharding", rule, "use full, or set num_nodes")

    def _check_unset(self, name: str, where: str, otherwise: str = "") -> None:
        check_default(name, getattr(self, name), type(self).__dataclass_fields__[name].default, where, otherwise)

    def check_unevaluated(self) -> None:
        """Checks the settings for data without dev groups.

        Raises:
            ValueError: a setting of evaluations is given.
        """
        for name in EVALUATION_FIELDS:
            self._check_unset(name, "where there are no dev groups to evaluate (prepare.dev_fraction puts some aside)")

    @property
    def num_processes(self) -> int:
        """How many processes train together, over all nodes."""
        return self.nproc_per_node * self.num_nodes

    @property
    def placement(self) -> Placement:
        """Where the training and its reference pass compute."""
        return Placement(self.nproc_per_node, self.num_nodes, self.rdzv_endpoint, self.sharding, self.cpu_offload)

    @property
    def sharded(self) -> bool:
        """Whether each process holds a share of the model."""
        return self.sharding != "none"

    @property
    def is_launched(self) -> bool:
        """Whether the training runs in processes of its own, which torchrun starts."""
        return self.placement.is_launched

    @property
    def loggers(self) -> list[str]:
        """`report_to` as a list."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in names if name != "none"]

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "TrainConfig":
        """The settings of a recipe's `train` section.

        Raises:
            ValueError: a key does not exist (the message names the nearest that does), or a value breaks its rule.
        """
        names = [known.name for known in fields(cls)]
        values = dict(values)
        for other, name in _OTHER_NAMES.items():
            if other in values:
                rule = f"be left out where {name} is given"
                check(name not in values, other, rule, values[other], "they are two names of one setting")
                values[name] = values.pop(other)
        for key, value in values.items():
            check_known(key, value, names)
        types = {known.name: kind(known.type) for known in fields(cls)}
        given = {key: plain(value, types[key], key) for key, value in values.items()}
        weighting, options = given.get("label_weighting"), given.get("objective_options")
        if isinstance(weighting, dict):
            given["label_weighting"] = {key: plain(value, "float") for key, value in weighting.items()}
        if isinstance(options, dict):
            declared = option_types(str(given.get("objective", cls.objective)))
            given["objective_options"] = {key: plain(value, declared.get(key, "")) for key, value in options.items()}
        # `__post_init__` checks the types.
        return cls(**given)  # type: ignore[arg-type]

    @property
    def max_groups_per_row(self) -> int:
        """The most groups in a row: at most 32, and so few that a step has as many full rows as there are processes, or a multiple.

        Batches that are multiples of 32 have the same rows, and so share the cached reference.
        """
        rows_per_process = math.ceil(self.global_batch_size / (_MOST_GROUPS_PER_ROW * self.num_processes))
        return self.global_batch_size // (rows_per_process * self.num_processes)

    @property
    def row_tokens(self) -> int:
        """`max_tokens_per_row`, once it is a number.

        Raises:
            ValueError: it is auto, and nobody has found it yet.
        """
        if self.max_tokens_per_row == AUTO:
            raise ValueError(
                "max_tokens_per_row must be a number before rows are packed, got 'auto'; call bnf.training.budget.find_budget, or set it"
            )
        return self.max_tokens_per_row

    def steps_per_epoch(self, num_groups: int) -> int:
        """How many optimizer steps an epoch has: the number whose mean batch is nearest to `global_batch_size` groups.

        The groups are spread evenly over them. With n steps the mean is within 1/(2n) of `global_batch_size`: 5 % from ten steps on.
        """
        return max(1, round(num_groups / self.global_batch_size))

    def num_dev_samples(self, num_prompts: int) -> int:
        """How many completions are sampled at an evaluation of so many dev prompts."""
        return min(num_prompts, _MOST_DEV_SAMPLES) if self.dev_prompts is None else self.dev_prompts

    def num_steps(self, num_groups: int | None) -> int | None:
        """How many optimizer steps a training on so many groups has; None where that depends on an unknown number of groups."""
        if self.max_steps > 0:
            return self.max_steps
        return None if num_groups is None else math.ceil(self.num_train_epochs * self.steps_per_epoch(num_groups))

    def num_evaluations(self, num_groups: int | None) -> int | None:
        """How often a training on so many groups evaluates its dev groups; None where that depends on an unknown number of groups."""
        after_first_step = num_evaluations(self.eval_steps, self.num_steps(num_groups))
        return None if after_first_step is None else 1 + after_first_step

    def identity(self) -> dict[str, object]:
        """The settings that decide the policy, up to the order of sums; a training goes on where they are the same.

        Of its placement only that counts which decides the rows, and the form of its checkpoints.
        """
        unset = [name for name in CHOOSING_FIELDS if getattr(self, name) == type(self).__dataclass_fields__[name].default]
        apart = (*BOOKKEEPING_FIELDS, *PLACEMENT_FIELDS, *unset)
        kept = {name: value for name, value in self.to_dict().items() if name not in apart}
        return kept | {name: getattr(self, name) for name in DERIVED_FIELDS}

    def row_settings(self) -> dict[str, object]:
        """What reference, training and analysis share: the rows, their dtype, and the kernels of attention."""
        return {name: getattr(self, name) for name in REFERENCE_FIELDS} | {"max_groups_per_row": self.max_groups_per_row}

    @property
    def needs_kl_pairs(self) -> bool:
        """Whether the objective reads KL pairs (`bnf.reference.kl_pairs`)."""
        return load_objective(self.objective, self.objective_options).needs_kl_pairs

    def reference_settings(self) -> dict[str, object]:
        """The settings of the reference stage: those of the rows, and whether it caches KL pairs (`mismatched`)."""
        return self.row_settings() | {"mismatched": self.needs_kl_pairs}

    def to_dict(self) -> dict[str, object]:
        """Plain values, as `from_dict` takes them."""
        return asdict(self)
