"""An evaluation on the way: the dev groups' rows, and the policy's own samples of their prompts. It takes no gradient."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.model.sharding import is_sharded, load_sharded
from bnf.objectives import BaseObjective
from bnf.progress import TrainingProgress
from bnf.training.adapters import is_adapted, transformers_model, without_adapter
from bnf.training.config import TrainConfig
from bnf.training.dev import DevFigures, Sample, prompts_to_sample, sample
from bnf.training.losses import Totals, assemble_row, total_loss
from bnf.training.metrics import StepMetrics, sample_metrics
from bnf.training.rows import TrainRow

# Keys and values of as many rows' tokens are held at once when dev prompts are continued.
_CACHED_ROWS = 8


class DevSet:
    """The rows of a training's dev groups, and the model that the policy's samples are compared with.

    That is the model of `compared_model_dir`, from which shifts are measured too; where `starts_as_compared`, the training starts from it.
    `compared_with` is what messages call it.
    """

    def __init__(
        self,
        rows: Sequence[TrainRow],
        config: TrainConfig,
        objective: BaseObjective,
        *,
        weights: tuple[float, float],
        compared_model_dir: Path,
        starts_as_compared: bool,
        compared_with: str,
    ) -> None:
        self.rows, self.config, self.objective, self.weights = rows, config, objective, weights
        self.compared_model_dir, self.starts_as_compared = compared_model_dir, starts_as_compared
        self.compared_with = compared_with

    def __len__(self) -> int:
        return len(self.rows)

    def evaluate(
        self, model: PreTrainedModel, totals: Totals, *, is_trained: bool, progress: TrainingProgress
    ) -> dict[str, float]:
        """What is logged of `model` as it is, without `eval_`; `totals` are those of all rows. Nothing of the training depends on it."""
        scored, bf16 = transformers_model(model), self.config.bf16
        metrics, figures = StepMetrics(), DevFigures(self.objective)
        losses = []
        with torch.no_grad():
            for item in self.rows:
                policy = row_logps(scored, item.row, bf16=bf16, entropies=True, prompts=self.objective.needs_prompts)
                row = assemble_row(item, policy, totals, length_normalization=self.config.length_normalization)
                metrics.add_row(self.objective, row, policy, item.row.num_tokens)
                figures.add_row(row)
                losses.append(total_loss(self.objective.losses(row), row, totals, self.weights))
                progress.on_dev_row(len(losses), len(self.rows))
        samples = self._samples(model, progress)
        values = {"loss": float(torch.stack(losses).sum()), **metrics.pop()}
        if samples:
            values |= sample_metrics(samples, scored, self._compared(model, is_trained=is_trained), bf16=bf16).to_json()
        # Last: the rules of a collapse look at these, whatever else is logged.
        return values | figures.logged(samples)

    def _samples(self, model: PreTrainedModel, progress: TrainingProgress) -> list[Sample]:
        groups = [group for item in self.rows for group in item.row.groups]
        number = self.config.num_dev_samples(len(groups))
        if not number:
            return []
        return sample(
            model,
            prompts_to_sample(groups, number),
            max_new_tokens=self.config.dev_max_new_tokens,
            # A token's keys and values are a small part of what a training row keeps of it.
            max_tokens=_CACHED_ROWS * self.config.row_tokens,
            seed=self.config.seed,
            bf16=self.config.bf16,
            progress=progress.on_samples,
        )

    def _compared(self, model: PreTrainedModel, *, is_trained: bool) -> AbstractContextManager[PreTrainedModel] | None:
        """The model that the policy's samples are compared with; None where that is the policy itself."""
        if self.starts_as_compared and not is_trained:
            return None
        if self.starts_as_compared and is_adapted(model):
            return without_adapter(model)
        # Held while it is used, when no gradients are: it takes no more memory than they do.
        settings, attention = self.config, model.config._attn_implementation
        if is_sharded(transformers_model(model)):
            compared = load_sharded(self.compared_model_dir, settings.placement, weights=settings.weights, attention=attention)
        else:
            compared = load_model(
                self.compared_model_dir, weights=settings.weights, load_in_4bit=settings.load_in_4bit, attention=attention
            )
        return nullcontext(compared.eval())
