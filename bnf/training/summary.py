"""train_summary.json: how a training went, for the report. Nothing of the policy depends on it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bnf.data.groups import PromptGroup
from bnf.data.packing import Row
from bnf.files import read_note
from bnf.training import collapse
from bnf.training.choosing import FIGURES
from bnf.training.metrics import peak_memory_gb
from bnf.training.own_reference import BASE, OLD, REFERENCE, Mismatch
from bnf.training.row_trainer import LearningRates, RowTrainer

SUMMARY_FILE = "train_summary.json"
_MAY_BE_LEFT_OUT = (
    *("dev", "kept", "policies", "old_mismatch", "old_made_elsewhere", "base_mismatch", "base_made_elsewhere"),
    *("step0_check_skipped", "compared_with"),
)


@dataclass(frozen=True)
class KeptSummary:
    """Which policy `keep_best` took: the step and its dev figure, and the last step's.

    Attributes:
        figure: `eval_accuracy` or `eval_loss`.
        planned_steps: how many the training would have had; `last_step` is lower where it stopped early, by `patience`.
    """

    figure: str
    step: int
    value: float
    last_step: int
    last_value: float
    planned_steps: int
    patience: int | None


@dataclass(frozen=True)
class DevSummary:
    """What was logged of the dev groups before the first step, and of the policy that was taken."""

    groups: int
    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True)
class TrainSummary:
    """How a training went; `final` is what was logged of its last step."""

    steps: int
    resumed_from_step: int
    seconds: float
    tokens_per_second: float
    groups: int
    rows: int
    rows_per_step: float
    groups_per_step: float
    tokens_per_epoch: int
    label_weights: Sequence[float]
    learning_rates: LearningRates
    padding_share: float
    report_to: Sequence[str]
    peak_memory_gb: float
    final: Mapping[str, float]
    # None where there are no dev groups.
    dev: DevSummary | None
    # Why training computed the reference itself, where it did: the mean weight under the cached one, or how another device made it.
    reference_mismatch: float | None
    reference_made_elsewhere: str | None
    # None without `keep_best`.
    kept: KeptSummary | None = None
    # The policies of the way that were kept: by its name the step of each. None where none was asked for.
    policies: Mapping[str, int] | None = None
    # Why training computed `old` itself, where it did: the mean ratio to the cached values, or how another device made them.
    old_mismatch: float | None = None
    old_made_elsewhere: str | None = None
    # The same of the base model's values.
    base_mismatch: float | None = None
    base_made_elsewhere: str | None = None
    # Why policy and reference were not compared before the first step: what the reference is. None where they were, or there is none.
    step0_check_skipped: str | None = None
    # The model from which shifts and KL are measured, in words, where that is not the reference.
    compared_with: str | None = None

    def to_json(self) -> dict[str, object]:
        """The fields as train_summary.json holds them."""
        return {name: value for name, value in asdict(self).items() if name not in _MAY_BE_LEFT_OUT or value is not None}

    @classmethod
    def from_json(cls, text: str) -> "TrainSummary":
        """The summary that a file's text holds.

        Raises:
            ValueError: another version of the project wrote it.
        """
        found = json.loads(text)
        for name in _MAY_BE_LEFT_OUT:
            found.setdefault(name, None)
        known = {field.name for field in fields(cls)}
        if found.keys() != known:
            raise ValueError(
                f"{SUMMARY_FILE} must hold what this version writes, got it with other keys ({', '.join(sorted(found.keys() ^ known))}); "
                "delete it to train again, or choose another output folder"
            )
        rates, dev, kept = LearningRates(**found.pop("learning_rates")), found.pop("dev"), found.pop("kept")
        return cls(
            **found,
            learning_rates=rates,
            dev=None if dev is None else DevSummary(**dev),
            kept=None if kept is None else KeptSummary(**kept),
        )


def summarize(
    trainer: RowTrainer,
    rows: Sequence[Row],
    groups: Sequence[PromptGroup],
    dev_groups: Sequence[PromptGroup],
    *,
    resumed_from: int,
    seconds: float,
    mismatches: Mapping[str, Mismatch],
    unequal: str | None = None,
) -> TrainSummary:
    """The summary of a training that has ended, `seconds` after it began. `mismatches` say of which values the cached ones were not taken;
    `unequal` says why its reference is no copy of its start.
    """
    reference, old, base = (mismatches.get(of, Mismatch()) for of in (REFERENCE, OLD, BASE))
    state = trainer.state
    logged = [entry for entry in state.log_history if "loss" in entry]
    evaluated = [entry for entry in state.log_history if "eval_loss" in entry]
    best = trainer.best_step
    at_best = [entry for entry in evaluated if entry["step"] == best]
    taken = next(iter([*at_best, *reversed(evaluated)]), None)
    num_tokens = sum(row.num_tokens for row in rows)
    num_steps = trainer.steps.num_steps
    trained_tokens = num_tokens / num_steps * (state.global_step - resumed_from)
    return TrainSummary(
        steps=state.global_step,
        resumed_from_step=resumed_from,
        seconds=round(seconds, 3),
        tokens_per_second=round(trained_tokens / (seconds - trainer.evaluation_seconds), 1),
        groups=len(groups),
        rows=len(rows),
        rows_per_step=round(len(rows) / num_steps, 2),
        groups_per_step=round(len(groups) / num_steps, 2),
        tokens_per_epoch=num_tokens,
        label_weights=list(trainer.weights),
        learning_rates=trainer.applied_rates(),
        padding_share=0.0,
        report_to=trainer.config.loggers,
        peak_memory_gb=peak_memory_gb(),
        final=logged[-1] if logged else {},
        dev=DevSummary(len(dev_groups), evaluated[0], taken) if taken is not None else None,
        reference_mismatch=reference.mean_weight,
        reference_made_elsewhere=reference.elsewhere,
        kept=None if best is None or taken is None else _kept(trainer, best, taken, evaluated[-1]),
        policies={name: min(step, state.global_step) for name, step in trainer.policies.asked.items()} or None,
        old_mismatch=old.mean_weight,
        old_made_elsewhere=old.elsewhere,
        base_mismatch=base.mean_weight,
        base_made_elsewhere=base.elsewhere,
        step0_check_skipped=unequal,
        compared_with=None if trainer.dev.compared_with == collapse.REFERENCE else trainer.dev.compared_with,
    )


def _kept(trainer: RowTrainer, best: int, taken: Mapping[str, float], last: Mapping[str, float]) -> KeptSummary:
    config, state = trainer.config, trainer.state
    name = FIGURES[config.keep_best].name
    return KeptSummary(
        figure=config.keep_best,
        step=best,
        value=taken[name],
        last_step=state.global_step,
        last_value=last[name],
        planned_steps=state.max_steps,
        patience=config.early_stopping_patience,
    )


def read_summary(output_dir: Path) -> TrainSummary | None:
    """The summary of the training in that folder; None where it has not ended.

    Raises:
        ValueError: another version of the project wrote it.
    """
    file = output_dir / SUMMARY_FILE
    # One that a power cut left empty is as good as none.
    return None if read_note(file) is None else TrainSummary.from_json(file.read_text())
