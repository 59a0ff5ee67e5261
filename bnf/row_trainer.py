"""transformers.Trainer over packed rows.

A micro-batch is one row; the losses of an optimizer step are divided by what its rows really hold. The seed permutes whole
rows. A checkpoint appears under its name when it is complete.
"""

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from bnf.config import TrainConfig
from bnf.logps import row_logps
from bnf.losses import RowReference, Totals, assemble, count, total_loss
from bnf.metrics import StepMetrics
from bnf.mismatched import mean_logratio
from bnf.objectives._base import BaseObjective
from bnf.packing import Row
from bnf.reference import Progress


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient is no longer a number: the training has collapsed and cannot go on."""


@dataclass(frozen=True)
class TrainRow:
    """A micro-batch: a row, and the reference's values where they are read."""

    row: Row
    reference: RowReference | None


class RowTrainer(Trainer):
    """transformers.Trainer whose examples are packed rows and whose loss is an objective of `bnf.objectives`."""

    model: PreTrainedModel
    args: TrainingArguments
    objective: BaseObjective

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        rows: Sequence[TrainRow],
        *,
        config: TrainConfig,
        objective: BaseObjective,
        weights: tuple[float, float],
        step0_check: bool,
        metrics_file: Path,
        progress: Progress,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=_only)
        self.config = config
        self.num_rows = len(rows)
        self.objective = objective
        self.weights = weights if objective.takes_label_weights else (1.0, 1.0)
        self.step0_check = step0_check
        self.step_metrics = StepMetrics()
        self.metrics_file = metrics_file
        self.window_started = time.monotonic()
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.add_callback(_Reporter(self, progress))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return _SeededOrder(self.num_rows, self.config.seed)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The rows of one optimizer step, and what they share; before the step's first backward pass."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, self._totals([batch["row"] for batch in batches])

    def _totals(self, items: Sequence[TrainRow]) -> Totals:
        totals = count(self.objective, [group for item in items for group in item.row.groups])
        if self.objective.needs_mismatched:
            logratio = mean_logratio(self.model, [item.reference for item in items], bf16=self.config.bf16)
            totals = replace(totals, mismatched_logratio=logratio)
        return totals

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """One row's share of the step's loss."""
        assert isinstance(num_items_in_batch, Totals) and not return_outputs
        item: TrainRow = inputs["row"]
        step = self.state.global_step + 1
        is_logged = step % self.args.logging_steps == 0
        policy = row_logps(
            self.model, item.row, bf16=self.config.bf16, entropies=is_logged, prompts=self.objective.needs_prompts
        )
        row = assemble(
            item.row,
            policy,
            item.reference,
            length_normalization=self.config.length_normalization,
            mismatched_logratio=num_items_in_batch.mismatched_logratio,
        )
        loss = total_loss(self.objective.losses(row), row, num_items_in_batch, self.weights)
        if not torch.isfinite(loss):
            raise self._collapse("loss", loss)
        self.step_metrics.add(self.objective, row, policy, item.row.num_tokens)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: transformers would count padded positions."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the step's metrics, and keeps them in metrics.jsonl."""
        if "loss" in logs:
            num_tokens = self.step_metrics.num_tokens
            logs |= self.step_metrics.pop()
            now = time.monotonic()
            logs["tokens_per_second"] = num_tokens / max(now - self.window_started, 1e-9)
            # Rows are packed flat: no position is padding.
            logs["padding_share"] = 0.0
            logs["peak_memory_gb"] = peak_memory_gb()
            self.window_started = now
            with self.metrics_file.open("a") as file:
                file.write(json.dumps({"step": self.state.global_step, **logs}) + "\n")
        super().log(logs, start_time)

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        if not math.isfinite(float(norm)):
            raise self._collapse("gradient norm", norm)
        return norm

    def _collapse(self, what: str, value: Any) -> NonFiniteLoss:
        return NonFiniteLoss(
            f"{what} must be finite, got {float(value)} at step {self.state.global_step + 1}; try a lower learning_rate "
            f"(now {self.config.learning_rate:g}), a lower max_grad_norm (now {self.config.max_grad_norm:g}), or label_weighting with "
            "less weight on dispreferred completions"
        )

    def check_identity(self) -> None:
        """Before the first update, where policy and reference are one model: every weight must be 1."""
        mean = self.step_metrics.mean_weight()
        # On CPU the two passes agree to the bit. CUDA kernels may differ with and without gradient; packed against padded in bf16
        # would be off by 7e-3.
        tolerance = 1e-6 if self.model.device.type == "cpu" else 1e-3
        if mean is not None and abs(mean - 1) > tolerance:
            raise ValueError(
                f"the mean weight at step 0 must be 1 within {tolerance:g}, got {mean!r}: policy and reference differ before training; "
                "run the reference stage again with this version of torch on this machine, or start from the reference's weights"
            )

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            return  # the policy itself is written next
        folder = Path(str(self.args.output_dir))
        partial = folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        self.args.output_dir = str(partial)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(folder)
        name = f"checkpoint-{self.state.global_step}"
        # TrainingArguments hold paths and callables as a pickle; the configuration is in training.json.
        (partial / name / "training_args.bin").unlink()
        older = list(folder.glob("checkpoint-*"))
        os.replace(partial / name, folder / name)
        for checkpoint in older:
            shutil.rmtree(checkpoint)


class _Reporter(TrainerCallback):
    """Progress, the step-0 assertion, and metrics.jsonl in step with a resumed state."""

    def __init__(self, trainer: RowTrainer, progress: Progress) -> None:
        self.trainer = trainer
        self.progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        partial = self.trainer.metrics_file.with_suffix(".partial")
        lines = [{"step": entry["step"]} | entry for entry in state.log_history]
        for line in lines:
            line.pop("epoch")
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
        os.replace(partial, self.trainer.metrics_file)
        self.trainer.window_started = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0 and self.trainer.step0_check:
            self.trainer.check_identity()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps, f"step {state.global_step} of {state.max_steps}")


class _SeededOrder(Sampler[int]):
    """The order of rows in an epoch: a permutation that the seed and the epoch's number fix."""

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows, self.seed, self.epoch = num_rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.num_rows, generator=generator).tolist())


def training_arguments(config: TrainConfig, checkpoints_dir: Path, accumulation: int) -> TrainingArguments:
    """transformers' arguments for a configuration: one row per micro-batch, on one device.

    Raises:
        ValueError: where several processes were started.
    """
    arguments = TrainingArguments(
        output_dir=str(checkpoints_dir),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        learning_rate=config.learning_rate,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=config.optim,
        # Autocast is entered by bnf.logps, for policy and reference alike.
        bf16=False,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=1,
        seed=config.seed,
        report_to=config.report_to,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
    )
    if arguments.world_size > 1:
        raise ValueError(
            f"the number of processes must be 1, got {arguments.world_size}; start training without torchrun or accelerate"
        )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def peak_memory_gb() -> float:
    """The most memory held so far: of the accelerator where there is one, else the process's resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    # In kibibytes, but for macOS, which counts bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _only(items: list[TrainRow]) -> dict[str, TrainRow]:
    (item,) = items
    return {"row": item}
