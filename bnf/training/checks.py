"""What a training would refuse, found before anything costly: from the model's folder, the groups, and the machine.

Training itself refuses the same. Here it is found without weights and before the reference pass. A plan checks it too and has to be
quick, so torch and transformers are imported only for what can't be known without them. Nothing of a policy is computed here.
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from bnf.data.groups import DEV, PromptGroup, read_groups
from bnf.data.longest import longest_of_all
from bnf.model.device import device_kind
from bnf.model.plain_models import is_plain
from bnf.nearest import did_you_mean
from bnf.objectives import load_objective
from bnf.training.choosing import check_choice_of_best, check_steps, num_evaluations
from bnf.training.config import TrainConfig
from bnf.training.fields import AUTO, SHARDED_OPTIMIZERS
from bnf.training.loggers import lacking

# Optimizers of torch itself, which every installation has.
_TORCH_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch")
# torchao's, which torch compiles at the first step.
_COMPILED = ("adamw_torch_8bit", "adamw_torch_4bit")
# Paged optimizers that have no unpaged one of their own name.
_UNPAGED = {"paged_adamw_32bit": "adamw_torch_fused", "paged_ademamix_32bit": "ademamix"}


def check_model_dir(config: TrainConfig, model_dir: Path, *, evaluates: bool) -> None:
    """Checks that this model can be trained with these settings; `evaluates` says that there are dev groups.

    Raises:
        FileNotFoundError, ValueError: for what `load_model`, `add_adapter`, the optimizer, the samples of an evaluation or the
            policy's files would refuse.
    """
    samples = evaluates and config.draws_dev_samples
    if config.lora_r or not is_plain(model_dir, evaluates=samples):
        _ask_transformers(config, model_dir, samples)


def check_lengths(model_dir: Path, num_tokens: int) -> None:
    """Checks that the model is exact in prompts and completions of up to `num_tokens` together.

    Raises:
        FileNotFoundError, ValueError: as `empty_model`, and where they may be too long.
    """
    if is_plain(model_dir, evaluates=False):
        return
    from bnf.model.families import check_length
    from bnf.model.loading import empty_model

    check_length(empty_model(model_dir).config, num_tokens)


def _ask_transformers(config: TrainConfig, model_dir: Path, samples: bool) -> None:
    from bnf.model.loading import empty_model
    from bnf.model.quantized import quantization
    from bnf.training.adapters import add_adapter
    from bnf.training.dev import stop_tokens

    model = empty_model(model_dir, gradient_checkpointing=config.gradient_checkpointing)
    if samples:
        stop_tokens(model)
    if config.load_in_4bit:
        quantization(model)
    if config.lora_r:
        add_adapter(model, config)


def check_machine(config: TrainConfig) -> None:
    """Checks that this machine and its installation can train with these settings.

    Raises:
        ValueError: naming the setting that they can't serve.
    """
    if config.num_nodes > 1:
        config.placement.meeting_point()
    if device_kind() != "cpu":
        _check_devices(config)
    if config.load_in_4bit:
        _check_bitsandbytes()
    if config.optim not in _TORCH_OPTIMIZERS or config.weights == "bf16":
        _check_optimizer(config)


def _check_devices(config: TrainConfig) -> None:
    import torch

    devices = torch.cuda.device_count()
    if 0 < devices < config.nproc_per_node:
        raise ValueError(
            f"nproc_per_node must be at most the {devices} devices of this machine, got {config.nproc_per_node}; write "
            f"train.nproc_per_node={devices}"
        )
    if config.bf16 and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError("bf16 must be false on a device without bfloat16, got true; write train.bf16=false")


def _check_bitsandbytes() -> None:
    from transformers.utils.import_utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ValueError(
            "load_in_4bit must be false without bitsandbytes, got true; pip install bitsandbytes, or leave it out and hold the frozen "
            "weights in bf16 (train.weights=bf16)"
        )


def _check_optimizer(config: TrainConfig) -> None:
    import torch
    from transformers import Trainer, TrainingArguments
    from transformers.training_args import OptimizerNames

    from bnf.training.optimizers import rounding_optimizer

    names = [one.value for one in OptimizerNames]
    if config.optim not in names:
        raise ValueError(
            f"optim must be an optimizer of transformers that is installed here, got {config.optim!r}, which it doesn't have; "
            + (did_you_mean(config.optim, names) or "adamw_torch_fused is the default")
        )
    if device_kind() == "cpu":
        _check_optimizer_on_cpu(config)
    # transformers' own defaults, without what making its arguments does to the process.
    defaults = {known.name: known.default for known in fields(TrainingArguments)}
    try:
        arguments = SimpleNamespace(**(defaults | {"optim": OptimizerNames(config.optim), "parallel_mode": None}))
        known = cast(TrainingArguments, arguments)
        optimizer, settings = rounding_optimizer(config, known) or Trainer.get_optimizer_cls_and_kwargs(known)
        _check_shards(config, optimizer.__module__)
        optimizer([torch.nn.Parameter(torch.zeros(1))], **settings)
    except (ValueError, ImportError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"optim must be an optimizer of transformers that is installed here, got {config.optim!r} ({error}); "
            "adamw_torch_fused is the default"
        ) from error


def _check_shards(config: TrainConfig, module: str) -> None:
    library = module.partition(".")[0]
    if config.sharded and config.optim not in SHARDED_OPTIMIZERS:
        whose = f" is {library}'s, which" if library in ("bitsandbytes", "torchao") else ""
        raise ValueError(
            f"{config.optim!r}{whose} can't update sharded weights: write train.sharding=none, or take one of "
            f"{', '.join(SHARDED_OPTIMIZERS)}"
        )


def _check_optimizer_on_cpu(config: TrainConfig) -> None:
    """Refuses what would be found by the first step only, or would be another optimizer."""
    if config.optim.startswith("paged_"):
        raise ValueError(
            f"optim must not be paged on a CPU, got {config.optim!r}: paging moves states between a CUDA device's memory and the CPU's; "
            f"write train.optim={_UNPAGED.get(config.optim, config.optim.removeprefix('paged_'))}, or train on CUDA"
        )
    compiler = os.environ.get("CXX", "g++")
    if config.optim in _COMPILED and shutil.which(compiler) is None:
        raise ValueError(
            f"optim must be an optimizer that this machine can compile, got {config.optim!r} without the C++ compiler {compiler}; install "
            "g++, or leave optim out"
        )


def check_groups_dir(config: TrainConfig, groups_dir: Path) -> None:
    """Checks that the groups of a folder, and its dev groups, are what the objective needs, and fit into rows.

    Raises:
        FileNotFoundError: the folder holds no groups.
        ValueError: naming what does not fit.
    """
    from bnf.training.rows import training_rows

    groups = read_groups(groups_dir)
    if config.max_tokens_per_row == AUTO:
        # Rows will be this long at least.
        config = replace(config, max_tokens_per_row=longest_of_all(groups_dir, config.share_prompts)[1])
    check_data(config, groups)
    rows = training_rows(config, groups)
    check_processes(config, len(rows))
    sets = [rows]
    dev_groups = read_groups(groups_dir / DEV) if (groups_dir / DEV).is_dir() else []
    check_choosing(config, groups, dev_groups)
    if dev_groups:
        sets.append(training_rows(config, dev_groups))
    if config.needs_kl_pairs:
        from bnf.reference.kl_pairs import kl_pair_rows

        for each in sets:
            kl_pair_rows(each)


def check_choosing(
    config: TrainConfig, groups: Sequence[PromptGroup], dev_groups: Sequence[PromptGroup], checkpoints: Sequence[str] = ()
) -> None:
    """Checks that there is something to choose a policy by, and that the training has the steps whose policies are asked for.

    Raises:
        ValueError: naming what is missing.
    """
    num_steps = config.num_steps(len(groups))
    assert num_steps is not None
    labels = {completion.label for group in dev_groups for completion in group.completions}
    comparable = any(group.pairs for group in dev_groups) or {1, -1} <= labels
    check_choice_of_best(config.keep_best, len(dev_groups), comparable, num_evaluations(config.eval_steps, num_steps))
    check_steps(checkpoints, num_steps)


def check_data(config: TrainConfig, groups: Sequence[PromptGroup]) -> None:
    """Checks that the data are what the objective needs.

    Raises:
        ValueError: naming what is missing.
    """
    from bnf.training.losses import count, label_weights

    name, objective = config.objective, load_objective(config.objective, config.objective_options)
    num_pairs = sum(len(group.pairs) for group in groups)
    if objective.needs_pairs and not num_pairs:
        raise ValueError(f"groups must hold pairs for objective {name!r}, got none; set prepare.pairing to best_worst or all")
    if config.length_normalization == "pair_min" and not num_pairs:
        raise ValueError(
            "length_normalization must be own on groups without pairs, got 'pair_min'; set prepare.pairing, or use own"
        )
    if objective.needs_scores:
        for group in groups:
            if any(completion.score is None for completion in group.completions):
                raise ValueError(
                    f"group {group.id!r} must have scores for objective {name!r}, got one without; label the samples"
                )
    if not any(map(objective.learns_from_group, groups)):
        raise ValueError(
            f"groups must hold a prompt whose completions have different scores for objective {name!r}, got {len(groups)} without; sample "
            "more completions of a prompt, or other prompts"
        )
    totals = count(objective, groups)
    preferred, dispreferred = label_weights(config.label_weighting, groups)
    if objective.needs_pairs or not totals.num_completions:
        learns = totals.num_pairs > 0
    else:
        weights = {1: preferred, -1: dispreferred}
        learns = any(
            weights[completion.label] > 0 and objective.learns_from(completion)
            for group in groups
            for completion in group.completions
        )
    if not learns:
        labels = Counter(completion.label for group in groups for completion in group.completions)
        options = f", with objective_options {config.objective_options}" if config.objective_options else ""
        raise ValueError(
            f"groups must hold something for objective {name!r} to learn from, got {labels[1]} preferred completions of weight "
            f"{preferred:g} and {labels[-1]} dispreferred ones of weight {dispreferred:g}{options}; look at the "
            "labels, and at train.label_weighting"
        )


def check_loggers(config: TrainConfig) -> None:
    """Checks that this machine has what the loggers need.

    Raises:
        ValueError: naming what is missing.
    """
    for logger in config.loggers:
        if wrong := lacking(logger):
            raise ValueError(f"report_to={logger} {wrong}")


def check_processes(config: TrainConfig, num_rows: int) -> None:
    """Checks that every process has a row to compute.

    Raises:
        ValueError: there are more processes than rows.
    """
    if config.num_processes > num_rows:
        nodes = f" times num_nodes ({config.num_nodes})" if config.num_nodes > 1 else ""
        raise ValueError(
            f"nproc_per_node{nodes} must be at most the {num_rows} rows that the data make, got {config.nproc_per_node}; lower it, or for "
            f"more rows global_batch_size (now {config.global_batch_size}) or max_tokens_per_row (now {config.max_tokens_per_row})"
        )
