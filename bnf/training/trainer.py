"""Training as a stage: a model folder, prompt groups and their reference in; a policy, metrics and a summary out.

A training that was killed goes on from its last checkpoint to the same bits.
"""

import json
import os
import shutil
import time
from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from bnf.data.groups import DEV, GROUPS_FILE, PromptGroup, read_groups
from bnf.data.packing import Row
from bnf.files import open_to_readers
from bnf.model.allocator import keep_freed_memory
from bnf.model.digests import companion_files, model_digest
from bnf.model.loading import load_model, stored_dtype
from bnf.objectives import load_objective
from bnf.progress import Progress
from bnf.reference.cache import INDEX_FILE, made_elsewhere, read_reference, reference_numerics
from bnf.reference.kl_pairs import mismatched_rows
from bnf.training.adapters import add_adapter, merge, save_adapter
from bnf.training.arguments import training_arguments
from bnf.training.checks import check_data, check_machine, check_processes, training_rows
from bnf.training.config import BOOKKEEPING_FIELDS, TrainConfig
from bnf.training.launch import is_worker, launch
from bnf.training.loggers import lacking
from bnf.training.losses import RowReference, label_weights
from bnf.training.own_reference import (
    Mismatch,
    ReferenceMismatch,
    drop_own_reference,
    is_of,
    note_mismatch,
    noted_mismatch,
    own_reference,
)
from bnf.training.parallel import is_first, wait_for_all
from bnf.training.row_trainer import RowTrainer, TrainRow, peak_memory_gb

METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "train_summary.json"
# The adapters of a LoRA training; what is not the final policy lies under a name with `checkpoint`.
ADAPTER = "adapter_checkpoint"
_IDENTITY_FILE = "training.json"
_CHECKPOINTS = "checkpoints"


def train(
    config: TrainConfig,
    *,
    model_dir: Path,
    groups_dir: Path,
    reference_dir: Path | None,
    output_dir: Path,
    step0_check: bool,
    progress: Progress,
    reference_model_dir: Path | None = None,
) -> dict[str, Any]:
    """Trains the model of `model_dir` on the groups of `groups_dir`; returns what train_summary.json holds.

    Leaves `policy/` (a model folder), metrics.jsonl, trainer_state.json and train_summary.json in `output_dir`, the last of
    them last; with LoRA the adapters too, in `adapter_checkpoint/`, though they are merged into the policy. Dev groups, where
    the data set has some, are evaluated on the way. Called again after a kill, it goes on from the last checkpoint; called
    again after the end, it returns the summary.

    `step0_check` asserts that policy and reference are equal before the first step: give it where they are the same weights.
    Where they are, and differ (another machine computed the cache), the next call computes a reference of its own; where the cache
    says that another kind of device made it, this one does.
    `reference_model_dir` is the reference's model folder where that is not `model_dir`.

    Raises:
        FileNotFoundError: where the model, the groups or the reference are not there.
        ValueError: where the objective's needs, the rows or the output folder do not fit.
        ReferenceMismatch: where the step-0 assertion fails under a cache of the same weights.
        TrainingCollapsed: where the training collapses.
    """
    objective = load_objective(config.objective, config.objective_options)
    check_loggers(config)
    groups = read_groups(groups_dir)
    if objective.needs_reference and reference_dir is None:
        raise ValueError(
            f"reference_dir must be given for objective {config.objective!r}, got None; run the reference stage first"
        )
    check_data(config, groups)
    rows = training_rows(config, groups)
    check_processes(config, rows)
    check_machine(config)
    if reference_dir is not None and (groups_dir / DEV).is_dir():
        _check_reference_model(reference_dir, reference_model_dir or model_dir)
    _claim(output_dir, config, model_dir, groups_dir)
    finished = output_dir / SUMMARY_FILE
    mismatch = None
    if reference_dir is not None and not finished.is_file():
        mismatch = _mismatch(reference_dir, reference_model_dir or model_dir, output_dir, step0_check=step0_check)
        if mismatch is not None:
            reference_dir = own_reference(config, reference_model_dir or model_dir, groups_dir, output_dir, progress)
    if not finished.is_file() and config.nproc_per_node > 1 and not is_worker():
        folders = {"model_dir": model_dir, "groups_dir": groups_dir, "reference_dir": reference_dir, "output_dir": output_dir}
        more = {"step0_check": step0_check, "reference_model_dir": reference_model_dir}
        launch(config, {**folders, **more}, output_dir, progress)
    if finished.is_file():
        summary: dict[str, Any] = json.loads(finished.read_text())
        return summary

    dev_groups = read_groups(groups_dir / DEV) if (groups_dir / DEV).is_dir() else []
    dev_rows = training_rows(config, dev_groups)
    started = time.monotonic()
    computed_with = None if reference_dir is None else reference_numerics(reference_dir)
    if computed_with is not None and computed_with.get("num_threads") and not torch.cuda.is_available():
        # With another number of threads the policy would differ from its own reference in the last bits of its logits.
        torch.set_num_threads(computed_with["num_threads"])
    keep_freed_memory()
    model = load_model(model_dir, gradient_checkpointing=config.gradient_checkpointing)
    # Before the trainer: this is where the processes meet.
    arguments = training_arguments(config, output_dir / _CHECKPOINTS, evaluates=bool(dev_rows))
    trainer = RowTrainer(
        add_adapter(model, config) if config.lora_r else model,
        arguments,
        train_rows(config, rows, reference_dir),
        config=config,
        objective=objective,
        weights=label_weights(config.label_weighting, groups),
        num_steps=config.steps_per_epoch(len(groups)),
        step0_check=computed_with if step0_check else None,
        metrics_file=output_dir / METRICS_FILE,
        progress=progress,
        dev=train_rows(config, dev_rows, None if reference_dir is None else reference_dir / DEV),
        reference_model_dir=reference_model_dir or model_dir,
        starts_as_reference=reference_model_dir is None,
    )
    checkpoint = last_checkpoint(output_dir / _CHECKPOINTS)
    resumed_from = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint is not None else 0
    if "tensorboard" in config.loggers and is_first():
        trainer.add_callback(_tensorboard(output_dir / "tensorboard", resumed_from))
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except ReferenceMismatch as error:
        raise _what_to_do(error, mismatch, model_dir, reference_dir, output_dir) from None
    summary = _summary(trainer, rows, groups, dev_groups, resumed_from, time.monotonic() - started)
    summary["reference_mismatch"] = None if mismatch is None else mismatch.mean_weight
    summary["reference_made_elsewhere"] = None if mismatch is None else mismatch.elsewhere
    if is_first():
        if config.lora_r:
            save_adapter(trainer.model, output_dir / ADAPTER)
            model = merge(trainer.model)
        save_policy(model, model_dir, output_dir / "policy")
        trainer.state.save_to_json(str(output_dir / "trainer_state.json"))
        shutil.rmtree(output_dir / _CHECKPOINTS, ignore_errors=True)
        drop_own_reference(output_dir)
        partial = finished.with_suffix(".partial")
        partial.write_text(json.dumps(summary, indent=1) + "\n")
        os.replace(partial, finished)
    wait_for_all()
    return summary


def _mismatch(reference_dir: Path, reference_model_dir: Path, output_dir: Path, *, step0_check: bool) -> Mismatch | None:
    """Why the reference is to be computed here: what was noted, or what the cache says of the device that made it."""
    noted = noted_mismatch(output_dir)
    if noted is not None:
        return noted if step0_check or noted.elsewhere else None
    elsewhere = made_elsewhere(reference_dir)
    if elsewhere is None:
        return None
    if not is_of(reference_dir, reference_model_dir):
        raise ValueError(
            f"reference_dir must be of this kind of device, got {reference_dir} with {elsewhere}, and of other weights than "
            f"{reference_model_dir}, from which it can't be computed again; name the reference's model, or cache it here"
        )
    mismatch = Mismatch(elsewhere=elsewhere)
    note_mismatch(output_dir, mismatch)
    return mismatch


def _what_to_do(
    error: ReferenceMismatch, noted: Mismatch | None, model_dir: Path, reference_dir: Path | None, output_dir: Path
) -> ValueError:
    """The error, and what helps: nothing but other weights, another process, or this one's own reference in the next try."""
    assert reference_dir is not None
    if not is_of(reference_dir, model_dir):
        return ValueError(f"{error}; the reference is of other weights: start from those, or cache this model's")
    if noted is not None:
        return ValueError(
            f"{error}; training computed this reference itself, so one of its two passes is wrong on this machine"
        )
    if is_first():
        note_mismatch(output_dir, Mismatch(error.mean_weight))
    # A process that fails ends the others: none does before it is noted.
    wait_for_all()
    return ReferenceMismatch(f"{error}; started again, training computes the reference itself", error.mean_weight)


def _summary(
    trainer: RowTrainer,
    rows: Sequence[Row],
    groups: Sequence[PromptGroup],
    dev_groups: Sequence[PromptGroup],
    resumed_from: int,
    seconds: float,
) -> dict[str, Any]:
    """What train_summary.json holds."""
    state = trainer.state
    logged = [entry for entry in state.log_history if "loss" in entry]
    evaluated = [entry for entry in state.log_history if "eval_loss" in entry]
    num_tokens = sum(row.num_tokens for row in rows)
    num_steps = trainer.steps.num_steps
    trained_tokens = num_tokens / num_steps * (state.global_step - resumed_from)
    summary = {
        "steps": state.global_step,
        "resumed_from_step": resumed_from,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(trained_tokens / (seconds - trainer.evaluation_seconds), 1),
        "groups": len(groups),
        "rows": len(rows),
        "rows_per_step": round(len(rows) / num_steps, 2),
        "groups_per_step": round(len(groups) / num_steps, 2),
        "tokens_per_epoch": num_tokens,
        "label_weights": list(trainer.weights),
        "learning_rates": trainer.applied_rates(),
        "padding_share": 0.0,
        "report_to": trainer.config.loggers,
        "peak_memory_gb": peak_memory_gb(),
        "final": logged[-1] if logged else {},
    }
    if evaluated:
        summary["dev"] = {"groups": len(dev_groups), "before": evaluated[0], "after": evaluated[-1]}
    return summary


def train_rows(config: TrainConfig, rows: Sequence[Row], reference_dir: Path | None) -> list[TrainRow]:
    """Each row with the reference's values, where there is a reference."""
    references: Sequence[RowReference | None] = [None] * len(rows)
    if rows and reference_dir is not None:
        needs_mismatched = load_objective(config.objective, config.objective_options).needs_mismatched
        references = read_reference(
            reference_dir,
            rows,
            max_tokens_per_row=config.max_tokens_per_row,
            bf16=config.bf16,
            mismatched=mismatched_rows(rows) if needs_mismatched else None,
        )
    return [TrainRow(row, reference) for row, reference in zip(rows, references, strict=True)]


def check_loggers(config: TrainConfig) -> None:
    """Checks that this machine has what the loggers need.

    Raises:
        ValueError: naming what is missing.
    """
    for logger in config.loggers:
        if wrong := lacking(logger):
            raise ValueError(f"report_to={logger} {wrong}")


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest step; what is there under that name is complete."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    return checkpoints[-1] if checkpoints else None


def save_policy(model: PreTrainedModel, model_dir: Path, policy_dir: Path) -> None:
    """Writes a model folder that appears whole: weights in the dtype they came in, everything else as it was."""
    partial = policy_dir.with_name(policy_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(stored_dtype(model_dir)).save_pretrained(partial)  # type: ignore[arg-type]
    for file in companion_files(model_dir):
        target = partial / file.relative_to(model_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    open_to_readers(partial)
    shutil.rmtree(policy_dir, ignore_errors=True)
    os.replace(partial, policy_dir)


def _check_reference_model(reference_dir: Path, model_dir: Path) -> None:
    """The policy's samples are compared with the model whose values are cached, and no other."""
    cached = json.loads((reference_dir / INDEX_FILE).read_text())["model"]
    if cached != model_digest(model_dir):
        raise ValueError(
            f"reference_model_dir must be the model that {reference_dir} was made from, got {model_dir} with other weights or files; "
            "name the reference's folder"
        )


def _tensorboard(folder: Path, resumed_from: int) -> TrainerCallback:
    """A logger that goes on in `folder` after a kill, hiding the steps that are computed again."""
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=resumed_from + 1 if resumed_from else None))


def _claim(output_dir: Path, config: TrainConfig, model_dir: Path, groups_dir: Path) -> None:
    """Notes what is trained in this folder, so that nothing else is resumed there."""
    identity = {
        "config": {name: value for name, value in config.to_dict().items() if name not in BOOKKEEPING_FIELDS},
        "model": model_digest(model_dir),
    }
    for name, path in (("groups", groups_dir / GROUPS_FILE), ("dev groups", groups_dir / DEV / GROUPS_FILE)):
        if path.is_file():
            with path.open("rb") as file:
                identity[name] = file_digest(file, "sha256").hexdigest()
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / _IDENTITY_FILE
    if path.is_file():
        found = json.loads(path.read_text())
        different = [name for name in identity | found if found.get(name) != identity.get(name)]
        if different:
            raise ValueError(
                f"output_dir must be new or hold the same training, got {output_dir} with another {' and '.join(different)}; "
                "choose another folder or delete this one"
            )
        return
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(identity, indent=1) + "\n")
    os.replace(partial, path)
