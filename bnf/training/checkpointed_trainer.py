"""transformers.Trainer with checkpoints that appear whole, and with models that were sharded before it sees them."""

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.optim import Optimizer
from transformers import PreTrainedModel, Trainer, TrainingArguments

from bnf.files import open_to_readers, put_folder, write_json
from bnf.model.sharding import is_sharded
from bnf.parallel.group import is_first, wait_for_all
from bnf.training import checkpoints
from bnf.training.adapters import is_adapted, transformers_model

# The names and sizes of a checkpoint's files.
_FILES = "files.json"

_logger = logging.getLogger(__name__)


class CheckpointedTrainer(Trainer):
    """transformers.Trainer whose checkpoints appear under their names when they are complete, the older ones then go.

    A model that is sharded stays as it is: its own forward gathers weights and adds up gradients. It is saved in shares.
    """

    model: PreTrainedModel
    args: TrainingArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        train_dataset: object,
        eval_dataset: object,
        optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, object]] | None,
    ) -> None:
        # The model that rows go through, without a wrapper of adapters.
        self.scored = transformers_model(model)
        self.is_sharded = is_sharded(self.scored)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        )
        # transformers then wraps the model in nothing. Set late: of models that it has sharded itself it makes no checkpoints.
        self.is_distributed_loading_by_transformers = self.is_sharded

    def _move_model_to_device(self, model: torch.nn.Module, device: torch.device) -> None:
        # A sharded model lies where it belongs.
        if not self.is_sharded:
            super()._move_model_to_device(model, device)

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        if self.control.should_training_stop:
            return  # the policy itself is written next; before it is, a killed training computes its last steps again
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
            self.forget_best_checkpoint()
        wait_for_all()
        if not is_first():
            return
        name = f"checkpoint-{self.state.global_step}"
        # TrainingArguments hold paths and callables as a pickle; the configuration is in training.json.
        (unfinished / name / "training_args.bin").unlink(missing_ok=True)
        _note_files(unfinished / name)
        open_to_readers(unfinished / name)
        older = [checkpoint for checkpoint in folder.glob("checkpoint-*") if checkpoint.name != name]
        # A power cut must find one of both whole: the older ones go once the disk itself holds the new one.
        put_folder(unfinished / name, folder / name)
        for checkpoint in older:
            shutil.rmtree(checkpoint)

    def forget_best_checkpoint(self) -> None:
        """Forgets which checkpoint transformers noted as the best one: it has another name by now, or is gone."""
        self.state.best_model_checkpoint = None

    # The parts of a checkpoint, which a sharded training writes and reads in its own form.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.is_sharded:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Writes the weights of a checkpoint under the names that the model itself uses.

        transformers reads them back by these, and passes over all others. A model's files have other names where its experts lie in
        one tensor, or its parts under other names.
        """
        if is_adapted(self.model):
            super()._save(output_dir, state_dict)
        else:
            self.model.save_pretrained(str(output_dir), state_dict=state_dict, save_original_format=False)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        folder = Path(output_dir)
        checkpoints.save_shares(folder, self.model, self._own_optimizer())
        if is_first():
            assert self.lr_scheduler is not None
            checkpoints.save_scheduler(folder, self.lr_scheduler)

    def _save_rng_state(self, output_dir: str) -> None:
        if not self.is_sharded:
            super()._save_rng_state(output_dir)
            return
        checkpoints.save_random_state(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        # The weights of a sharded training are read with its optimizer, which is made later.
        if not self.is_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        assert self.lr_scheduler is not None
        checkpoints.load_shares(Path(checkpoint), self.model, self._own_optimizer())
        checkpoints.load_scheduler(Path(checkpoint), self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if not self.is_sharded or checkpoint is None:
            super()._load_rng_state(checkpoint)
        elif not checkpoints.load_random_state(Path(checkpoint)) and _has_dropout(self.scored):
            _logger.warning("the checkpoint is of another number of processes: dropout goes on with other random numbers")

    def _own_optimizer(self) -> Optimizer:
        """The optimizer itself, without accelerate's wrapper."""
        optimizer: object = self.optimizer
        return cast(Optimizer, optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer)


def check_whole(checkpoint: Path) -> None:
    """Checks that a checkpoint has the files that it was written with. transformers begins with a new optimizer where that is missing.

    Raises:
        ValueError: a file is missing, or of another size.
    """
    noted = checkpoint / _FILES
    wrong = f"without a list of its files ({_FILES})"
    if noted.is_file():
        with suppress(ValueError):
            wrong = _difference(checkpoint, json.loads(noted.read_text()))
    if wrong:
        raise ValueError(
            f"a checkpoint must be as it was written, got {checkpoint} {wrong}; restore it, or delete it to begin the training anew"
        )


def _note_files(checkpoint: Path) -> None:
    files = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()}
    write_json(checkpoint / _FILES, files, indent=1)


def _difference(checkpoint: Path, sizes: Mapping[str, int]) -> str:
    """The first file that is not as noted, in words."""
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"without {name}"
        if file.stat().st_size != size:
            return f"with {file.stat().st_size} bytes of {name}, not {size}"
    return ""


def _has_dropout(model: PreTrainedModel) -> bool:
    return any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())
