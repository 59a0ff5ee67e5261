"""The `train` section's keys: the type, the default and the description of each, under transformers.TrainingArguments' names where those
exist. `bnf.training.config` holds them to their rules.
"""

from dataclasses import dataclass, field
from typing import Literal

from bnf.training.choosing import KeepBest
from bnf.training.schedule import SCHEDULES


def _about(description: str) -> dict[str, str]:
    """The metadata of a field: a description that the JSON schema and the run form show."""
    return {"description": description}


@dataclass(frozen=True)
class Settings:
    """The settings of one training, as they are given."""

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
            "completions sampled of dev prompts at an evaluation, for KL, entropy and the check that they end; 0: none; left out, "
            "none with keep_best, else one of each dev prompt, of 64 at most; more than there are prompts samples them several times"
        ),
    )
    dev_max_new_tokens: int = field(default=256, metadata=_about("the longest of these samples, in tokens"))
    keep_best: KeepBest = field(
        default="none",
        metadata=_about(
            "take the policy with the best dev accuracy (preferred above dispreferred rewards) or loss; none: the last; needs "
            "prepare.dev_fraction, and no samples (dev_prompts)"
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
