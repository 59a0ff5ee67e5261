"""transformers.Trainer over packed rows.

A batch of the trainer's is all rows of an optimizer step. They are computed one after another, and their losses are divided by what
the step's rows really hold. The seed permutes whole rows. A checkpoint appears under its name when it is complete.
"""

import gc
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict, cast

import torch
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from bnf.files import replacing
from bnf.model.logps import accept_rows, row_logps
from bnf.model.sharding import give_back
from bnf.objectives import BaseObjective
from bnf.parallel.group import is_first, num_processes, of_first, process_number
from bnf.progress import Progress, TrainingProgress
from bnf.reference.kl_pairs import mean_logratio
from bnf.training.checkpointed_trainer import CheckpointedTrainer
from bnf.training.collapse import check_evaluations, non_finite
from bnf.training.config import TrainConfig
from bnf.training.evaluating import DevSet
from bnf.training.identity import IdentityCheck
from bnf.training.losses import Totals, assemble_row, count, total_loss
from bnf.training.metrics import StepMetrics, peak_memory_gb
from bnf.training.optimizers import rounding_optimizer
from bnf.training.parallel import SeededSteps, StepLoader, sum_totals
from bnf.training.policies import Policies
from bnf.training.rows import TrainRow
from bnf.training.schedule import num_warmup_steps, rate_share


class StepRows(TypedDict):
    """A batch of `StepLoader`: the rows of an optimizer step that one process computes."""

    rows: list[TrainRow]


@dataclass(frozen=True)
class LearningRates:
    """The learning rates that the optimizer was given (of the first step, the highest, of the last), and the number of warm-up steps."""

    first: float
    highest: float
    last: float
    warmup_steps: int


class RowTrainer(CheckpointedTrainer):
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
        identity: Sequence[IdentityCheck],
        metrics_file: Path,
        progress: Progress,
        dev: DevSet,
        policies: Policies,
    ) -> None:
        """`num_steps` are the optimizer steps of an epoch. `identity` checks that cached values equal the policy's before the first step.
        `dev` is evaluated on the way.
        """
        filler = replace(min(rows, key=lambda item: item.row.num_tokens), counts=False)
        self.rows = [*rows, filler]
        super().__init__(
            model=model,
            args=args,
            train_dataset=self.rows,
            eval_dataset=dev.rows,
            optimizer_cls_and_kwargs=rounding_optimizer(config, args),
        )
        self.config = config
        self.steps = SeededSteps(
            [len(item.row.groups) for item in rows],
            config.seed,
            num_steps=num_steps,
            process=process_number(),
            num_processes=num_processes(),
            equally_many=self.is_sharded,
        )
        if num_processes() > 1 and not self.is_sharded:
            accept_rows(model)
        self.objective = objective
        self.weights = weights
        self.identity = identity
        self.step_metrics = StepMetrics()
        self.metrics_file = metrics_file
        self.dev = dev
        self.policies = policies
        self.progress = TrainingProgress(progress)
        self.evaluation_seconds = 0.0
        self.window_started = time.monotonic()
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.add_callback(_Reporter(self))

    def get_train_dataloader(self) -> StepLoader[TrainRow]:
        return StepLoader(self.rows, self.steps)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """The rates of `bnf.training.schedule`: transformers' own schedules begin a warm-up with a step of rate 0."""
        if self.lr_scheduler is None:
            optimizer = optimizer if optimizer is not None else self.optimizer
            assert optimizer is not None
            self.lr_scheduler = LambdaLR(optimizer, self._rate_share(num_training_steps))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _num_warmup(self, num_steps: int) -> int:
        return num_warmup_steps(self.config.lr_scheduler_type, self.config.warmup_ratio, num_steps)

    def _rate_share(self, num_steps: int) -> partial[float]:
        """The function of a step's number that gives its share of the highest rate."""
        num_warmup = self._num_warmup(num_steps)
        return partial(rate_share, name=self.config.lr_scheduler_type, num_warmup=num_warmup, num_steps=num_steps)

    def applied_rates(self) -> LearningRates:
        """The learning rates of a training that has ended."""
        share = self._rate_share(self.state.max_steps)
        rates = [self.config.learning_rate * share(step) for step in range(self.state.global_step)]
        return LearningRates(rates[0], max(rates), rates[-1], self._num_warmup(self.state.max_steps))

    # A batch here is rows, where transformers' own are tensors.
    def get_batch_samples(  # type: ignore[override]
        self, epoch_iterator: Iterator[StepRows], num_batches: int, device: torch.device
    ) -> tuple[list[StepRows], Totals]:
        """This process's rows of one optimizer step, and what all rows of the step share; before the step's first backward pass."""
        batches: list[StepRows]
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        items = [item for batch in batches for item in batch["rows"] if item.counts]
        pairs = [item.reference.kl_pairs for item in items if item.reference is not None]
        num_kl_pairs = sum(len(each.row.lengths) for each in pairs if each is not None)
        fillers = [item for batch in batches for item in batch["rows"] if not item.counts]
        if self.is_sharded and self.objective.needs_kl_pairs and fillers:
            # For the other processes' sake, which compute the KL pairs of a row each.
            self._kl_pair_logratio(fillers)
        return batches, sum_totals(self._totals(items), num_kl_pairs, self.args.device)

    def _totals(self, items: Sequence[TrainRow]) -> Totals:
        logratio = self._kl_pair_logratio(items) if self.objective.needs_kl_pairs and items else None
        return replace(count(self.objective, [group for item in items for group in item.row.groups]), kl_pair_logratio=logratio)

    def _kl_pair_logratio(self, items: Sequence[TrainRow]) -> torch.Tensor:
        return mean_logratio(self.scored, [item.reference for item in items], bf16=self.config.bf16)

    def training_step(  # type: ignore[override]
        self, model: torch.nn.Module, inputs: StepRows, num_items_in_batch: Totals | None = None
    ) -> torch.Tensor:
        """Forward and backward pass of each row; the processes' gradients meet in the last one's."""
        *before, last = inputs["rows"]
        loss = torch.zeros((), device=self.args.device)
        with self.accelerator.no_sync(model):
            for item in before:
                loss += super().training_step(model, {"row": item}, num_items_in_batch)  # type: ignore[arg-type]
        return loss + super().training_step(model, {"row": last}, num_items_in_batch)  # type: ignore[arg-type]

    def compute_loss(  # type: ignore[override]
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, TrainRow],
        return_outputs: bool = False,
        num_items_in_batch: Totals | None = None,
    ) -> torch.Tensor:
        """One row's share of the step's loss."""
        assert num_items_in_batch is not None and not return_outputs
        item = inputs["row"]
        entropies = self.objective.needs_entropies or (self.state.global_step + 1) % self.args.logging_steps == 0
        forward = partial(row_logps, self.scored) if model is self.model else model
        policy = forward(row=item.row, bf16=self.config.bf16, entropies=entropies, prompts=self.objective.needs_prompts)
        if not item.counts:
            nothing: torch.Tensor = policy.logps.sum() * 0.0
            return nothing
        row = assemble_row(item, policy, num_items_in_batch, length_normalization=self.config.length_normalization)
        self.step_metrics.add_row(self.objective, row, policy, item.row.num_tokens)
        if self.identity and self.state.global_step == 0:
            with torch.no_grad():
                for check in self.identity:
                    check.add_row(row)
        loss = total_loss(self.objective.losses(row), row, num_items_in_batch, self.weights)
        if not torch.isfinite(loss):
            raise non_finite("loss", float(loss), self.state.global_step + 1, self.config)
        # Gradients are averaged over the processes, and should be summed.
        return loss * num_processes()

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """Evaluates the dev groups and the policy's own samples of their prompts, and logs the result.

        Nothing of the training depends on it: it takes no gradient and none of the training's random numbers.

        Raises:
            TrainingCollapsed: the figures show a collapse.
        """
        started = time.monotonic()
        self.progress.begin_evaluation()
        self.model.eval()
        dev, is_trained = self.dev, self.state.global_step > 0
        values = dev.evaluate(self.model, self._totals(dev.rows), is_trained=is_trained, progress=self.progress)
        # The processes decide alike, also where a device's last bits are not another's.
        logs = {f"eval_{name}": value for name, value in of_first(lambda: values).items()}
        give_back(self.scored)
        if self.is_sharded:
            # The units of a sharded reference hold one another, and the next step needs their memory.
            gc.collect()
        logs["eval_seconds"] = time.monotonic() - started
        self.log(dict(logs))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        self.window_started += time.monotonic() - started
        self.evaluation_seconds += time.monotonic() - started
        self.progress.end_evaluation()
        if not math.isfinite(logs["eval_loss"]):
            raise non_finite("dev loss", logs["eval_loss"], self.state.global_step, self.config)
        evaluations = [entry for entry in self.state.log_history if "eval_loss" in entry]
        check_evaluations(evaluations, self.config, compared_with=dev.compared_with)
        return logs

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        is_best: bool = super()._determine_best_metric(metrics, trial)
        if is_best and not self.control.should_training_stop:
            self.aside(self.policies.keep_best)
        return is_best

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        super()._save_checkpoint(model, trial)
        if not self.control.should_training_stop:
            self.policies.on_checkpoint(self.best_step)

    @property
    def best_step(self) -> int | None:
        """The step with the best dev figure so far; None where none is looked at."""
        return self.state.best_global_step

    def aside(self, keep: Callable[[PreTrainedModel, int], None]) -> None:
        """Keeps the policy as it is now, in time that is none of the training's."""
        started = time.monotonic()
        keep(self.model, self.state.global_step)
        self.window_started += time.monotonic() - started
        self.evaluation_seconds += time.monotonic() - started

    def floating_point_ops(self, inputs: Mapping[str, object]) -> int:
        """Not counted: transformers would count padded positions."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the step's metrics, and writes them to metrics.jsonl."""
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

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: float | None = None) -> float:
        found: object = super()._get_grad_norm(model, grad_norm=grad_norm)
        norm = float(found.full_tensor() if isinstance(found, DTensor) else cast(float, found))
        if not math.isfinite(norm):
            raise non_finite("gradient norm", norm, self.state.global_step + 1, self.config)
        return norm


class _Reporter(TrainerCallback):
    """Reports steps that are not logged, calls the step-0 check, and keeps metrics.jsonl in step with a resumed state."""

    def __init__(self, trainer: RowTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        if is_first():
            lines = [{"step": entry["step"]} | entry for entry in state.log_history]
            for line in lines:
                line.pop("epoch", None)
            with replacing(self.trainer.metrics_file) as unfinished:
                unfinished.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.trainer.window_started = time.monotonic()
        self.trainer.progress.begin(state.global_step, state.max_steps, state.eval_steps if self.trainer.dev else None)
        self.trainer.forget_best_checkpoint()
        self.trainer.policies.begin(state.global_step, self.trainer.best_step)
        if self.trainer.dev and state.global_step == 0:
            self.trainer.evaluate()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step == 0:
            for check in self.trainer.identity:
                check.check(self.trainer.args.device.type)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        if self.trainer.dev and state.global_step >= state.max_steps:
            control.should_evaluate = True
        if self.trainer.policies.asks_for(state.global_step) and state.global_step < state.max_steps:
            self.trainer.aside(self.trainer.policies.keep)
        if not control.should_log:
            self.trainer.progress.end_step(state.global_step, self.trainer.progress.logged)
