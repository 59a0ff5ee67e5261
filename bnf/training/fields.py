"""Groups of a training's settings (`bnf.training.config`), by what depends on them."""

from typing import Literal

# The value of max_tokens_per_row that has trials find it (`bnf.training.budget`).
AUTO: Literal["auto"] = "auto"
# The settings that reference and training share: the rows, the dtype they are computed in, how the weights are held, and the
# kernels of attention.
REFERENCE_FIELDS = ("max_tokens_per_row", "share_prompts", "bf16", "weights", "load_in_4bit", "attention")
# Optimizers that make up for the rounding of bf16 weights (`bnf.training.optimizers`).
BF16_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "stable_adamw", "adamw_torch_8bit", "adamw_torch_4bit")
# Optimizers that update shares of weights, and whose states are shares: those that were tried.
SHARDED_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd", "adagrad", "rmsprop")
# Where and how often a training writes. Nothing that it computes depends on them.
BOOKKEEPING_FIELDS = ("save_steps", "report_to")
# Where a training computes. It changes nothing but the order of sums, as long as the rows stay the same.
PLACEMENT_FIELDS = ("nproc_per_node", "num_nodes", "rdzv_endpoint", "sharding", "cpu_offload")
# What decides the memory of a training, beside its model and its data.
MEMORY_FIELDS = (
    *("objective", "objective_options", "length_normalization", "global_batch_size", "max_tokens_per_row", "share_prompts"),
    *("optim", "bf16", "weights", "attention", "gradient_checkpointing"),
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "load_in_4bit"),
    *("nproc_per_node", "num_nodes", "sharding", "cpu_offload"),
)
# What `TrainConfig.identity` has in their place.
DERIVED_FIELDS = ("max_groups_per_row", "sharded")
# Settings that only some objectives read: those that name them in `reads`.
READ_BY_SOME = ("label_weighting", "length_normalization")
# Settings of evaluations. Without dev groups nothing reads them.
EVALUATION_FIELDS = ("eval_steps", "dev_prompts", "dev_max_new_tokens", "keep_best", "early_stopping_patience")
# Settings that choose a policy of the training's way. A key has those that are set: without them it is what it was before they were there.
CHOOSING_FIELDS = ("keep_best", "early_stopping_patience")
