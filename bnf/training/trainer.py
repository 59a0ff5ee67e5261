"""Training in this process: a model folder, prompt groups and their reference in; a policy, metrics and a summary out.

A training that was killed goes on from its last checkpoint, to the same bits.
"""

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from bnf.data.groups import DEV, read_groups
from bnf.files import sync_folder, write_json
from bnf.model.allocator import keep_freed_memory
from bnf.model.kernels import implementation, in_common
from bnf.model.loading import load_model
from bnf.model.sharding import load_sharded
from bnf.objectives import load_objective
from bnf.parallel.group import gather, is_first, of_first, wait_for_all
from bnf.progress import Progress
from bnf.reference.index import read_index, reference_numerics
from bnf.training import collapse
from bnf.training.adapters import add_adapter
from bnf.training.arguments import Patience, training_arguments
from bnf.training.checkpointed_trainer import check_whole
from bnf.training.checks import check_choosing
from bnf.training.choosing import step_of
from bnf.training.config import TrainConfig
from bnf.training.evaluating import DevSet
from bnf.training.identity import IdentityCheck
from bnf.training.leftovers import CHECKPOINTS, drop_leftovers
from bnf.training.logger_runs import follow
from bnf.training.losses import label_weights
from bnf.training.own_reference import (
    OTHER_WEIGHTS,
    REFERENCE,
    TITLES,
    Mismatch,
    ReferenceMismatch,
    is_from,
    not_its_own,
    note_mismatch,
)
from bnf.training.policies import Policies, gathered
from bnf.training.preparation import Folders, Prepared, prepare
from bnf.training.row_trainer import RowTrainer
from bnf.training.rows import training_rows, with_reference
from bnf.training.summary import SUMMARY_FILE, TrainSummary, summarize

METRICS_FILE = "metrics.jsonl"
_logger = logging.getLogger(__name__)


def train(
    config: TrainConfig, folders: Folders, *, step0_check: bool, progress: Progress, checkpoints: Sequence[str] = ()
) -> TrainSummary:
    """Trains the model of `folders.model_dir` on the groups of `folders.groups_dir`, and returns what train_summary.json holds.

    Leaves in `folders.output_dir` the policy (`policy/`, a model folder), metrics.jsonl, trainer_state.json and, written when all of
    these are there, train_summary.json. The policy is the last one, or with `keep_best` the best on the dev groups. With LoRA the
    adapters are merged into the policy, and kept in `adapter_checkpoint/` too. If the data set has dev groups, they are evaluated on the
    way. Called again after a kill, it goes on from the last checkpoint. Called again after the end, it returns the summary. It trains as
    one process: where `num_processes` is above 1, call `bnf.training.launch.launch`.

    Args:
        step0_check: checks before the first step that policy and reference are equal; for a reference of the same weights. Where the
            cached values differ (another machine computed them), the next call computes a reference of its own. Where the cache says
            that another kind of device made it, this call does. The values of `folders.old_dir` are checked always, and in the
            same way; those of `folders.base_dir` where training starts from the base model.

    Raises:
        FileNotFoundError: the model, the groups or the reference are not there.
        ValueError: the objective's needs, the rows, the number of processes or the output folder do not fit, or the checkpoint is not
            whole.
        ReferenceMismatch: the step-0 check failed under cached values of the same weights.
        TrainingCollapsed: the training collapsed.
    """
    prepared = prepare(config, folders, step0_check=step0_check, progress=progress)
    if prepared.finished is not None:
        drop_leftovers(folders.output_dir)
        return prepared.finished
    groups, rows = prepared.groups, prepared.rows
    reference_dir, old_dir, base_dir = prepared.reference_dir, prepared.old_dir, prepared.base_dir
    model_dir, groups_dir, output_dir = folders.model_dir, folders.groups_dir, folders.output_dir
    dev_groups = read_groups(groups_dir / DEV) if (groups_dir / DEV).is_dir() else []
    dev_rows = training_rows(config, dev_groups)
    check_choosing(config, groups, dev_groups, checkpoints)
    num_steps = config.num_steps(len(groups))
    assert num_steps is not None
    started = time.monotonic()
    checked = prepared.checked(model_dir, step0_check=step0_check)
    computed_with = {cache.of: reference_numerics(cache.folder) for cache in checked or prepared.caches}
    of_first_cache = next(iter(computed_with.values()), None)
    if of_first_cache is not None and of_first_cache.num_threads and not torch.cuda.is_available():
        # With another number of threads the policy would differ from its own cached values in the last bits of its logits.
        torch.set_num_threads(of_first_cache.num_threads)
    keep_freed_memory()
    attention = _attention(config, prepared, folders)
    adapt = partial(add_adapter, config=config) if config.lora_r else None
    if config.sharded:
        model = load_sharded(
            model_dir,
            config.placement,
            gradient_checkpointing=config.gradient_checkpointing,
            weights=config.weights,
            attention=attention,
            adapt=adapt,
        )
    else:
        model = load_model(
            model_dir,
            gradient_checkpointing=config.gradient_checkpointing,
            weights=config.weights,
            attention=attention,
            load_in_4bit=config.load_in_4bit,
        )
        model = model if adapt is None else adapt(model)
    # Before the trainer: it refuses processes that something else has started.
    arguments = training_arguments(config, output_dir / CHECKPOINTS, evaluates=bool(dev_rows))
    asked = {name: step_of(name, config.save_steps, num_steps) for name in checkpoints}
    policies = Policies(config, model_dir, output_dir, asked, attention=attention)
    checks_identity = step0_check and reference_dir is not None
    unequal = None if checks_identity or reference_dir is None else not_its_own(reference_dir, model_dir)
    if unequal is not None and is_first():
        _logger.warning(
            "the step-0 check is skipped: the reference is %s, so policy and reference differ before the first step", unequal
        )
    weights, objective = (
        label_weights(config.label_weighting, groups),
        load_objective(config.objective, config.objective_options),
    )
    dev = DevSet(
        with_reference(config, dev_rows, *(folder and folder / DEV for folder in (reference_dir, old_dir, base_dir))),
        config,
        objective,
        weights=weights,
        compared_model_dir=folders.compared_model_dir,
        starts_as_compared=folders.compared_model_dir == folders.model_dir,
        compared_with=collapse.REFERENCE if base_dir is None else "the base model",
    )
    trainer = RowTrainer(
        model,
        arguments,
        with_reference(config, rows, reference_dir, old_dir, base_dir),
        config=config,
        objective=objective,
        weights=weights,
        num_steps=config.steps_per_epoch(len(groups)),
        identity=[IdentityCheck(computed_with[cache.of], lora_dropout=config.lora_dropout, of=cache.of) for cache in checked],
        metrics_file=output_dir / METRICS_FILE,
        progress=progress,
        dev=dev,
        policies=policies,
    )
    checkpoint = of_first(lambda: _last_checkpoint(output_dir / CHECKPOINTS))
    if checkpoint is not None:
        check_whole(checkpoint)
    resumed_from = 0 if checkpoint is None else _step_of(checkpoint)
    if config.early_stopping_patience is not None:
        trainer.add_callback(Patience(config.early_stopping_patience))
    follow(trainer, output_dir, resumed_from)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except ReferenceMismatch as error:
        raise _with_remedy(error, prepared, model_dir, output_dir) from None
    seconds = time.monotonic() - started
    summary = summarize(
        trainer,
        rows,
        groups,
        dev_groups,
        resumed_from=resumed_from,
        seconds=seconds,
        mismatches={cache.of: cache.mismatch for cache in prepared.caches if cache.mismatch is not None},
        unequal=unequal,
    )
    # A sharded model is gathered by all processes, and written by the first.
    whole = gathered(model, config, model_dir) if config.sharded else model
    if is_first():
        policies.write(whole, last=trainer.state.global_step, best=trainer.best_step)
        _write(trainer, output_dir, summary)
    wait_for_all()
    return summary


def _attention(config: TrainConfig, prepared: Prepared, folders: Folders) -> str:
    """The attention implementation, which is that of the cached values of the model that training starts from. Another model's may need
    other kernels, and nothing compares it with the policy to the bit.

    Raises:
        ReferenceMismatch: this card can't do what computed them, or they were computed in two ways. The next try computes them itself.
        ValueError: a kernel that is asked for by name doesn't serve here, or the training's own values were computed otherwise.
    """
    own = [cache for cache in prepared.caches if is_from(cache.folder, folders.model_dir)]
    made = {cache.of: read_index(cache.folder).identity.attention for cache in own}
    first = next(iter(made.values()), None)
    # One of the processes may lie on a card that can do less.
    attention = in_common(gather(implementation(folders.model_dir, config.attention, bf16=config.bf16, made=first)))
    other = next((of for of, by in made.items() if by != attention), None)
    if other is None:
        return attention
    message = f"attention of {TITLES[other]} must be computed as the training's, by {attention}, got {made[other]}"
    cached = [cache.of for cache in own if cache.mismatch is None and made[cache.of] != attention]
    if not cached:
        raise ValueError(f"{message}, though training computed it itself; write train.attention=blocks")
    for of in cached:
        _note(folders.output_dir, Mismatch(elsewhere=f"attention {made[of]}, here {attention}"), of)
    raise ReferenceMismatch(f"{message}; started again, training computes {' and '.join(TITLES[of] for of in cached)} itself")


def _write(trainer: RowTrainer, output_dir: Path, summary: TrainSummary) -> None:
    """Writes what the training leaves beside its policies, and removes what it only needed on the way."""
    trainer.state.save_to_json(str(output_dir / "trainer_state.json"))
    # By its summary a training is known as ended: all else must be on the disk itself before.
    sync_folder(output_dir)
    write_json(output_dir / SUMMARY_FILE, summary.to_json(), indent=1, durable=True)
    drop_leftovers(output_dir)


def _with_remedy(error: ReferenceMismatch, prepared: Prepared, model_dir: Path, output_dir: Path) -> ValueError:
    """The error with what helps: other weights, another machine, or in the next try values of the training's own."""
    cache = next(cache for cache in prepared.caches if cache.of == error.of)
    title = TITLES[cache.of]
    if (other := not_its_own(cache.folder, model_dir, OTHER_WEIGHTS)) is not None:
        remedy = (
            "start from those, or cache this model's"
            if other == OTHER_WEIGHTS
            else "cache this model's values at temperature 1"
        )
        return ValueError(f"{error}; the reference is {other}: {remedy}")
    if cache.mismatch is not None:
        these = "this reference" if cache.of == REFERENCE else "these values"
        return ValueError(f"{error}; training computed {these} itself, so one of its two passes is wrong on this machine")
    _note(output_dir, Mismatch(error.mean_weight), cache.of)
    return ReferenceMismatch(f"{error}; started again, training computes {title} itself", error.mean_weight, cache.of)


def _note(output_dir: Path, mismatch: Mismatch, of: str) -> None:
    """Has the first process note it. All must call it: a process that fails ends the others, and none does before."""
    if is_first():
        note_mismatch(output_dir, mismatch, of)
    wait_for_all()


def _last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest step. Every folder of that name is complete."""
    return max(folder.glob("checkpoint-*"), key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])
