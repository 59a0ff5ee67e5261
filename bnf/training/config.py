"""The `train` section of a recipe: a training's settings (`bnf.training.settings`), held to their rules, and what follows from them.

Nothing here imports torch, so a recipe is checked within a fraction of a second.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import get_args, get_type_hints

from bnf.objectives import load_objective, option_types
from bnf.parallel.placement import HOST_PORT, Placement
from bnf.training.choosing import num_evaluations
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
from bnf.training.settings import Settings
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
    *("dev_max_new_tokens", "early_stopping_patience", "nproc_per_node", "num_nodes"),
)
# Dev prompts that are sampled where the recipe gives no number: of 64 samples, a share of 10 % has a standard error of 4 points.
MOST_DEV_SAMPLES = 64


@dataclass(frozen=True)
class TrainConfig(Settings):
    """The settings of one training, checked when it is made.

    Raises:
        ValueError: a value breaks its rule; the message names key, rule, value and remedy.
    """

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
        enough = self.dev_prompts is None or self.dev_prompts >= 0
        self._require(enough, "dev_prompts", "be at least 0", "0 draws no samples; leave it out for the default")
        check_choice("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES, otherwise="the field uses cosine")
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
        check_label_weighting(self.label_weighting)
        for name in ("length_normalization", "weights", "attention", "sharding", "keep_best"):
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
        if not self.draws_dev_samples:
            given = "dev_prompts is 0" if self.dev_prompts == 0 else "keep_best is set and dev_prompts isn't"
            where = f"where {given}: no samples of dev prompts are drawn"
            self._check_unset("dev_max_new_tokens", where, f"train.dev_prompts={MOST_DEV_SAMPLES} draws some")
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
            self._check_unset(name, "where there are no dev groups to evaluate", "prepare.dev_fraction=0.1 puts some aside")

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

    @property
    def draws_dev_samples(self) -> bool:
        """Whether an evaluation samples completions of dev prompts: `keep_best` doesn't look at them, so it draws none unasked."""
        return self.keep_best == "none" if self.dev_prompts is None else self.dev_prompts > 0

    def num_dev_samples(self, num_prompts: int) -> int:
        """How many completions are sampled at an evaluation of so many dev prompts."""
        if not self.draws_dev_samples:
            return 0
        return min(num_prompts, MOST_DEV_SAMPLES) if self.dev_prompts is None else self.dev_prompts

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
