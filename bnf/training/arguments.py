"""transformers' own arguments for a training's settings, and its early stopping."""

from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

from bnf.training.choosing import FIGURES
from bnf.training.config import TrainConfig


def training_arguments(config: TrainConfig, checkpoints_dir: Path, *, evaluates: bool) -> TrainingArguments:
    """transformers' arguments for these settings. A batch is an optimizer step's rows, whatever their number.

    Raises:
        ValueError: the number of started processes is not `nproc_per_node`.
    """
    figure = FIGURES.get(config.keep_best)
    arguments = TrainingArguments(
        output_dir=str(checkpoints_dir),
        per_device_train_batch_size=1,
        learning_rate=config.learning_rate,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=config.optim,
        # Autocast is entered by bnf.model.logps, for policy and reference alike.
        bf16=False,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=config.eval_steps if evaluates else None,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=1,
        # transformers notes the best figure and its step. It doesn't load that at the end: it would need whole checkpoints, as often as
        # the dev groups are evaluated, where `bnf.training.policies` keeps the weights alone.
        metric_for_best_model=figure.name if figure else None,
        greater_is_better=figure.greater_is_better if figure else None,
        restore_callback_states_from_checkpoint=config.early_stopping_patience is not None,
        seed=config.seed,
        # bnf.training.trainer adds TensorBoard's logger with a folder of its own; transformers would write among the checkpoints.
        report_to=[name for name in config.loggers if name != "tensorboard"],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        use_cpu=not torch.cuda.is_available(),
    )
    if arguments.world_size != config.num_processes:
        nodes = f" times num_nodes ({config.num_nodes})" if config.num_nodes > 1 else ""
        raise ValueError(
            f"the number of processes must be nproc_per_node ({config.nproc_per_node}){nodes}, got {arguments.world_size}; start training "
            "without torchrun or accelerate: it starts its processes itself"
        )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class Patience(EarlyStoppingCallback):
    """transformers' early stopping, without its warning that the best policy isn't loaded: it is taken by `bnf.training.policies`."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        pass
