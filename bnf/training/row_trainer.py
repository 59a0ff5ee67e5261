"""transformers.Trainer over packed rows.

A batch of the trainer's is an optimizer step's rows, as many as they are, which are computed one after another; their losses are
divided by what the step's rows really hold. The seed permutes whole rows. A checkpoint appears under its name when it is complete.
"""

import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from bnf.data.packing import Row
from bnf.files import open_to_readers
from bnf.model.loading import load_model, numerics
from bnf.model.logps import TokenLogps, row_logps
from bnf.objectives._base import BaseObjective
from bnf.progress import Progress, TrainingProgress
from bnf.reference.kl_pairs import mean_logratio
from bnf.training.adapters import is_adapted, without_adapter
from bnf.training.collapse import check_evaluations, non_finite
from bnf.training.config import TrainConfig
from bnf.training.dev import prompts_to_sample, sample, sample_metrics
from bnf.training.losses import RowReference, Totals, assemble, count, total_loss
from bnf.training.metrics import StepMetrics
from bnf.training.own_reference import ReferenceMismatch
from bnf.training.parallel import (
    SeededSteps,
    StepLoader,
    accept_rows,
    gather,
    is_first,
    num_processes,
    process_number,
    sum_totals,
    wait_for_all,
)
from bnf.training.schedule import num_warmup_steps, rate_share

_logger = logging.getLogger(__name__)

# Keys and values of as many rows' tokens are held at once when dev prompts are continued.
_CACHED_ROWS = 8


@dataclass(frozen=True)
class TrainRow:
    """What is computed at once: a row, and the reference's values where they are read."""

    row: Row
    reference: RowReference | None
    # False of a row that only keeps a process busy while others compute the rest of a step.
    counts: bool = True


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
        num_steps: int,
        step0_check: Mapping[str, Any] | None,
        metrics_file: Path,
        progress: Progress,
        dev: Sequence[TrainRow],
        reference_model_dir: Path,
        starts_as_reference: bool,
    ) -> None:
        """`num_steps` are the optimizer steps of an epoch; `step0_check` is what the reference was computed with, where it must
        equal the policy before the first step.

        `dev` are the rows that are evaluated; the policy's samples are compared with the model of `reference_model_dir`, which
        is the one that the training starts from where `starts_as_reference`.
        """
        filler = replace(min(rows, key=lambda item: item.row.num_tokens), counts=False)
        self.rows = [*rows, filler]
        super().__init__(model=model, args=args, train_dataset=self.rows, eval_dataset=dev)
        self.config = config
        self.steps = SeededSteps(
            [len(item.row.groups) for item in rows],
            config.seed,
            num_steps=num_steps,
            process=process_number(),
            num_processes=num_processes(),
        )
        if num_processes() > 1:
            accept_rows(model)
        self.objective = objective
        self.weights = weights
        self.step0_check = step0_check
        self.step_metrics = StepMetrics()
        self.metrics_file = metrics_file
        self.dev = dev
        self.reference_model_dir = reference_model_dir
        self.starts_as_reference = starts_as_reference
        self.progress = TrainingProgress(progress)
        self.evaluation_seconds = 0.0
        self.window_started = time.monotonic()
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.add_callback(_Reporter(self))

    def get_train_dataloader(self) -> StepLoader:
        return StepLoader(self.rows, self.steps)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The rates of `bnf.training.schedule`: transformers' own begin a warm-up with a step of rate 0."""
        if self.lr_scheduler is None:
            optimizer = optimizer if optimizer is not None else self.optimizer
            self.lr_scheduler = LambdaLR(optimizer, partial(rate_share, **self._schedule(num_training_steps)))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _schedule(self, num_steps: int) -> dict[str, Any]:
        name = self.config.lr_scheduler_type
        num_warmup = num_warmup_steps(name, self.config.warmup_ratio, num_steps)
        return {"name": name, "num_warmup": num_warmup, "num_steps": num_steps}

    def applied_rates(self) -> dict[str, Any]:
        """What the optimizer was given: the learning rates of the first and the last step, the highest, and the warm-up's steps."""
        schedule = self._schedule(self.state.max_steps)
        rates = [self.config.learning_rate * rate_share(step, **schedule) for step in range(self.state.global_step)]
        return {"first": rates[0], "highest": max(rates), "last": rates[-1], "warmup_steps": schedule["num_warmup"]}

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """This process's rows of one optimizer step, and what all of its rows share; before the step's first backward pass."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        items: list[TrainRow] = [item for batch in batches for item in batch["rows"] if item.counts]
        mismatched = [item.reference.mismatched for item in items if item.reference is not None]
        num_mismatched = sum(len(each.row.lengths) for each in mismatched if each is not None)
        return batches, sum_totals(self._totals(items), num_mismatched, self.model.device)

    def _totals(self, items: Sequence[TrainRow]) -> Totals:
        totals = count(self.objective, [group for item in items for group in item.row.groups])
        if self.objective.needs_mismatched and items:
            logratio = mean_logratio(self.model, [item.reference for item in items], bf16=self.config.bf16)
            totals = replace(totals, mismatched_logratio=logratio)
        return totals

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward pass of each row; the processes' gradients meet in the last one's."""
        *before, last = inputs["rows"]
        loss = torch.zeros((), device=self.args.device)
        with self.accelerator.no_sync(model):
            for item in before:
                loss += super().training_step(model, {"row": item}, num_items_in_batch)
        return loss + super().training_step(model, {"row": last}, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """One row's share of the step's loss."""
        assert isinstance(num_items_in_batch, Totals) and not return_outputs
        item: TrainRow = inputs["row"]
        is_logged = (self.state.global_step + 1) % self.args.logging_steps == 0
        forward = partial(row_logps, self.model) if model is self.model else model
        policy = forward(row=item.row, bf16=self.config.bf16, entropies=is_logged, prompts=self.objective.needs_prompts)
        if not item.counts:
            return policy.logps.sum() * 0.0
        loss = self._row_loss(item, policy, num_items_in_batch, self.step_metrics)
        if not torch.isfinite(loss):
            raise non_finite("loss", float(loss), self.state.global_step + 1, self.config)
        # Gradients are averaged over the processes, and should be summed.
        return loss * num_processes()

    def _row_loss(self, item: TrainRow, policy: TokenLogps, totals: Totals, metrics: StepMetrics) -> torch.Tensor:
        row = assemble(
            item.row,
            policy,
            item.reference,
            length_normalization=self.config.length_normalization,
            mismatched_logratio=totals.mismatched_logratio,
        )
        metrics.add(self.objective, row, policy, item.row.num_tokens)
        return total_loss(self.objective.losses(row), row, totals, self.weights)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measures the dev groups and the policy's own samples of their prompts, and logs it.

        Nothing of the training depends on it: no gradient, no shared random numbers.

        Raises:
            TrainingCollapsed: where the figures say so.
        """
        started = time.monotonic()
        self.progress.begin_evaluation()
        self.model.eval()
        metrics = StepMetrics()
        totals = self._totals(self.dev)
        settings = {"bf16": self.config.bf16, "entropies": True, "prompts": self.objective.needs_prompts}
        losses = []
        with torch.no_grad():
            for item in self.dev:
                losses.append(self._row_loss(item, row_logps(self.model, item.row, **settings), totals, metrics))
                self.progress.on_dev_row(len(losses), len(self.dev))
        loss = float(torch.stack(losses).sum())
        groups = [group for item in self.dev for group in item.row.groups]
        samples = sample(
            self.model,
            prompts_to_sample(groups, self.config.num_dev_samples(len(groups))),
            max_new_tokens=self.config.dev_max_new_tokens,
            # A token's keys and values are a small part of what a training row keeps of it.
            max_tokens=_CACHED_ROWS * self.config.max_tokens_per_row,
            seed=self.config.seed,
            bf16=self.config.bf16,
            progress=self.progress.on_samples,
        )
        values = {
            "loss": loss,
            **metrics.pop(),
            **sample_metrics(samples, self.model, self._reference(), bf16=self.config.bf16),
        }
        logs = {f"eval_{name}": value for name, value in values.items()}
        logs["eval_seconds"] = time.monotonic() - started
        self.log(dict(logs))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        self.window_started += time.monotonic() - started
        self.evaluation_seconds += time.monotonic() - started
        self.progress.end_evaluation()
        if not math.isfinite(loss):
            raise non_finite("dev loss", loss, self.state.global_step, self.config)
        check_evaluations([entry for entry in self.state.log_history if "eval_loss" in entry], self.config)
        return logs

    def _reference(self) -> Any:
        """What the policy's samples are compared with; None where that is the policy itself."""
        if self.starts_as_reference and self.state.global_step == 0:
            return None
        if self.starts_as_reference and is_adapted(self.model):
            return without_adapter(self.model)
        # Held while it is used, when no gradients are: it takes no more memory than they do.
        return nullcontext(load_model(self.reference_model_dir).eval())

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: transformers would count padded positions."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the step's metrics, and keeps them in metrics.jsonl."""
        if "loss" in logs:
            self.step_metrics.gather()
            num_tokens = self.step_metrics.num_tokens
            logs |= self.step_metrics.pop()
            now = time.monotonic()
            logs["tokens_per_second"] = num_tokens / max(now - self.window_started, 1e-9)
            # Rows are packed flat: no position is padding.
            logs["padding_share"] = 0.0
            logs["peak_memory_gb"] = peak_memory_gb()
            self.window_started = now
        if is_first() and ("loss" in logs or "eval_loss" in logs):
            with self.metrics_file.open("a") as file:
                file.write(json.dumps({"step": self.state.global_step, **logs}) + "\n")
        super().log(logs, start_time)
        if "loss" in logs:
            self.progress.end_step(self.state.global_step, logs)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not math.isfinite(float(norm)):
            raise non_finite("gradient norm", float(norm), self.state.global_step + 1, self.config)
        return norm

    def check_identity(self) -> None:
        """Before the first update, where policy and reference are one model: every weight must be 1."""
        # All processes agree, also where one of them has a row that differs and the others have none: the error is everybody's.
        means = [mean for mean in gather(self.step_metrics.mean_weight()) if mean is not None]
        mean = max(means, key=lambda mean: abs(mean - 1), default=None)
        # On CPU the two passes agree to the bit. CUDA kernels may differ with and without gradient; packed against padded in bf16
        # would be off by 7e-3.
        tolerance = 1e-6 if self.model.device.type == "cpu" else 1e-3
        if mean is None or abs(mean - 1) <= tolerance:
            return
        if self.config.lora_dropout > 0:
            _logger.warning(
                "the mean weight at step 0 is %s: lora_dropout %g keeps the policy from equalling the reference; 0 would have the "
                "equality checked",
                *(mean, self.config.lora_dropout),
            )
        else:
            raise ReferenceMismatch(
                f"the mean weight at step 0 must be 1 within {tolerance:g}, got {mean!r}: policy and reference differ before training; "
                f"the reference was computed with {dict(self.step0_check or {})}, this is {numerics()}",
                mean,
            )

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            return  # the policy itself is written next
        folder = Path(str(self.args.output_dir))
        unfinished = folder / "partial"
        if is_first():
            shutil.rmtree(unfinished, ignore_errors=True)
        wait_for_all()
        self.args.output_dir = str(unfinished)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(folder)
        wait_for_all()
        if not is_first():
            return
        name = f"checkpoint-{self.state.global_step}"
        # TrainingArguments hold paths and callables as a pickle; the configuration is in training.json.
        (unfinished / name / "training_args.bin").unlink()
        open_to_readers(unfinished / name)
        older = list(folder.glob("checkpoint-*"))
        os.replace(unfinished / name, folder / name)
        for checkpoint in older:
            shutil.rmtree(checkpoint)


class _Reporter(TrainerCallback):
    """Progress of steps that are not logged, the step-0 assertion, and metrics.jsonl in step with a resumed state."""

    def __init__(self, trainer: RowTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if is_first():
            unfinished = self.trainer.metrics_file.with_suffix(".partial")
            lines = [{"step": entry["step"]} | entry for entry in state.log_history]
            for line in lines:
                line.pop("epoch", None)
            unfinished.write_text("".join(json.dumps(line) + "\n" for line in lines))
            os.replace(unfinished, self.trainer.metrics_file)
        self.trainer.window_started = time.monotonic()
        self.trainer.progress.begin(state.global_step, state.max_steps, state.eval_steps if self.trainer.dev else None)
        if self.trainer.dev and state.global_step == 0:
            self.trainer.evaluate()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0 and self.trainer.step0_check is not None:
            self.trainer.check_identity()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.dev and state.global_step >= state.max_steps:
            control.should_evaluate = True
        if not control.should_log:
            self.trainer.progress.end_step(state.global_step, self.trainer.progress.logged)


def peak_memory_gb() -> float:
    """The most memory held so far: of the accelerator where there is one, else the process's resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    # In kibibytes, but for macOS, which counts bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
