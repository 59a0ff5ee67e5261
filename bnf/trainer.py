"""Training as a stage: a model folder, prompt groups and their reference in; a policy, metrics and a summary out.

A training that was killed goes on from its last checkpoint to the same bits.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bnf.config import BOOKKEEPING_FIELDS, TrainConfig
from bnf.digests import companion_files, model_digest
from bnf.groups import GROUPS_FILE, PromptGroup, read_groups
from bnf.losses import RowReference, count, label_weights
from bnf.mismatched import mismatched_rows
from bnf.models import load_model, stored_dtype
from bnf.objectives import load_objective
from bnf.objectives._base import BaseObjective
from bnf.packing import Row, pack
from bnf.reference import Progress, read_reference
from bnf.row_trainer import RowTrainer, TrainRow, peak_memory_gb, training_arguments

METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "train_summary.json"
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
) -> dict[str, Any]:
    """Trains the model of `model_dir` on the groups of `groups_dir`; returns what train_summary.json holds.

    Leaves `policy/` (a model folder), metrics.jsonl, trainer_state.json and train_summary.json in `output_dir`, the last of
    them last. Called again after a kill, it goes on from the last checkpoint; called again after the end, it returns the
    summary. `step0_check` asserts that policy and reference are equal before the first step: give it where they are the same
    weights.

    Raises:
        FileNotFoundError: where the model, the groups or the reference are not there.
        ValueError: where the objective's needs, the rows or the output folder do not fit; where the step-0 assertion fails.
        NonFiniteLoss: where the training collapses.
    """
    objective = load_objective(config.objective, config.objective_options)
    groups = read_groups(groups_dir)
    check_data(config, objective, groups, reference_dir)
    rows = pack(groups, config.max_tokens_per_row)
    accumulation = rows_per_step(rows, config.global_batch_size)
    _claim(output_dir, config, model_dir, groups_dir)
    if (output_dir / SUMMARY_FILE).is_file():
        finished: dict[str, Any] = json.loads((output_dir / SUMMARY_FILE).read_text())
        return finished
    references: Sequence[RowReference | None] = [None] * len(rows)
    if reference_dir is not None:
        references = read_reference(
            reference_dir,
            rows,
            max_tokens_per_row=config.max_tokens_per_row,
            bf16=config.bf16,
            mismatched=mismatched_rows(rows) if objective.needs_mismatched else None,
        )

    started = time.monotonic()
    model = load_model(model_dir, gradient_checkpointing=config.gradient_checkpointing)
    trainer = RowTrainer(
        model,
        training_arguments(config, output_dir / _CHECKPOINTS, accumulation),
        [TrainRow(row, reference) for row, reference in zip(rows, references, strict=True)],
        config=config,
        objective=objective,
        weights=label_weights(config.label_weighting, groups),
        step0_check=step0_check and reference_dir is not None,
        metrics_file=output_dir / METRICS_FILE,
        progress=progress,
    )
    checkpoint = last_checkpoint(output_dir / _CHECKPOINTS)
    resumed_from = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint is not None else 0
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    save_policy(model, model_dir, output_dir / "policy")
    state = trainer.state
    state.save_to_json(str(output_dir / "trainer_state.json"))
    logged = [entry for entry in state.log_history if "loss" in entry]
    seconds = time.monotonic() - started
    num_tokens = sum(row.num_tokens for row in rows)
    steps_per_epoch = math.ceil(len(rows) / accumulation)
    summary = {
        "steps": state.global_step,
        "resumed_from_step": resumed_from,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(num_tokens / steps_per_epoch * (state.global_step - resumed_from) / seconds, 1),
        "groups": len(groups),
        "rows": len(rows),
        "rows_per_step": accumulation,
        "groups_per_step": round(len(groups) / steps_per_epoch, 2),
        "tokens_per_epoch": num_tokens,
        "label_weights": list(trainer.weights),
        "padding_share": 0.0,
        "peak_memory_gb": peak_memory_gb(),
        "final": logged[-1] if logged else {},
    }
    shutil.rmtree(output_dir / _CHECKPOINTS, ignore_errors=True)
    partial = output_dir / (SUMMARY_FILE + ".partial")
    partial.write_text(json.dumps(summary, indent=1) + "\n")
    os.replace(partial, output_dir / SUMMARY_FILE)
    return summary


def check_data(
    config: TrainConfig, objective: BaseObjective, groups: Sequence[PromptGroup], reference_dir: Path | None
) -> None:
    """Checks that the data and the reference are what the objective needs.

    Raises:
        ValueError: naming what is missing.
    """
    name = config.objective
    if objective.needs_reference and reference_dir is None:
        raise ValueError(f"reference_dir must be given for objective {name!r}, got None; run the reference stage first")
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
    totals = count(objective, groups)
    if not totals.num_completions and not totals.num_pairs:
        raise ValueError(f"groups must hold something for objective {name!r} to learn from, got nothing; look at the labels")


def rows_per_step(rows: Sequence[Row], global_batch_size: int) -> int:
    """The number of whole rows whose groups come nearest to `global_batch_size`.

    Raises:
        ValueError: where one row holds more than twice as many groups as a step should.
    """
    most = max(len(row.groups) for row in rows)
    if most > 2 * global_batch_size:
        tokens_per_group = sum(row.num_tokens for row in rows) / sum(len(row.groups) for row in rows)
        fitting = max(math.ceil(tokens_per_group * global_batch_size), max(g.num_tokens for row in rows for g in row.groups))
        raise ValueError(
            f"max_tokens_per_row must leave at most {2 * global_batch_size} groups in a row (global_batch_size {global_batch_size}), "
            f"got a row of {most}; set max_tokens_per_row to about {fitting}, or raise global_batch_size"
        )
    groups_per_row = sum(len(row.groups) for row in rows) / len(rows)
    return max(1, round(global_batch_size / groups_per_row))


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
    shutil.rmtree(policy_dir, ignore_errors=True)
    os.replace(partial, policy_dir)


def _claim(output_dir: Path, config: TrainConfig, model_dir: Path, groups_dir: Path) -> None:
    """Notes what is trained in this folder, so that nothing else is resumed there."""
    with (groups_dir / GROUPS_FILE).open("rb") as file:
        identity = {
            "config": {name: value for name, value in config.to_dict().items() if name not in BOOKKEEPING_FIELDS},
            "model": model_digest(model_dir),
            "groups": file_digest(file, "sha256").hexdigest(),
        }
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / _IDENTITY_FILE
    if path.is_file():
        found = json.loads(path.read_text())
        different = [name for name in identity if found.get(name) != identity[name]]
        if different:
            raise ValueError(
                f"output_dir must be new or hold the same training, got {output_dir} with another {' and '.join(different)}; "
                "choose another folder or delete this one"
            )
        return
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(identity, indent=1) + "\n")
    os.replace(partial, path)
