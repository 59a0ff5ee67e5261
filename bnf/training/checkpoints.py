"""Checkpoints of a sharded training: every process writes its shares of weights and optimizer, in safetensors.

A training goes on from them in any number of processes: each reads the parts that make up its own shares. Nothing in them is pickled.
What isn't a tensor of the optimizer (learning rates, betas) comes from the settings and the scheduler.

torch's own `get_optimizer_state_dict` would not do: it finds no adapters beside frozen weights, and saves a count of steps that all
weights share once for each of them, which safetensors refuses.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from bnf.files import write_json
from bnf.model.sharding import give_back
from bnf.parallel.group import num_processes, process_number

_SHARES = "shares"
_SCHEDULER = "scheduler.json"


def save_shares(folder: Path, model: PreTrainedModel, optimizer: Optimizer) -> None:
    """Writes the trained weights and the optimizer's state. All processes must call it.

    Raises:
        OSError: a process could not write its share.
    """
    give_back(model)
    writer = HuggingFaceStorageWriter(str(folder / _SHARES), save_distributed=True)
    try:
        save(_state(model, optimizer), storage_writer=writer)
    except CheckpointException as error:
        # Its own message holds the tracebacks of all processes.
        failed = {rank: str(why) or type(why).__name__ for rank, (why, _) in error.failures.items()}
        rank, why = min(failed.items())
        raise OSError(
            f"process {rank} must be able to write its share of {folder}, got: {why}; make room there, and the training goes on from the "
            "checkpoint before"
        ) from error


def load_shares(folder: Path, model: PreTrainedModel, optimizer: Optimizer) -> None:
    """Reads into model and optimizer what `save_shares` wrote, with any number of processes. All must call it.

    What a missing share held would stay as it is: `bnf.training.checkpointed_trainer.check_whole` comes first.
    """
    give_back(model)
    _make_state(optimizer)
    # Into the tensors of model and optimizer themselves.
    load(_state(model, optimizer), storage_reader=HuggingFaceStorageReader(str(folder / _SHARES)))


def save_scheduler(folder: Path, scheduler: LRScheduler) -> None:
    """Writes where the learning rate's schedule stands."""
    write_json(folder / _SCHEDULER, scheduler.state_dict())


def load_scheduler(folder: Path, scheduler: LRScheduler) -> None:
    """Reads what `save_scheduler` wrote, and gives the optimizer the rates of the next step."""
    scheduler.load_state_dict(json.loads((folder / _SCHEDULER).read_text()))
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate


def save_random_state(folder: Path) -> None:
    """Writes this process's random numbers, which dropout draws."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    save_file(state, _random_state(folder))


def load_random_state(folder: Path) -> bool:
    """Reads what `save_random_state` wrote for this process, if anything; False where another number of processes wrote it."""
    file = _random_state(folder)
    if file.is_file():
        state = load_file(file)
        torch.set_rng_state(state["cpu"])
        if torch.cuda.is_available() and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"])
    return len(list(folder.glob("random-*.safetensors"))) == num_processes()


def _random_state(folder: Path) -> Path:
    return folder / f"random-{process_number():05d}.safetensors"


def _state(model: PreTrainedModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """What is saved: the weights that are trained, and the optimizer's tensors. A scalar has one dimension."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    state: dict[str, object] = {f"model.{name}": parameter.detach() for name, parameter in trained}
    for name, parameter in trained:
        state |= {f"optimizer.state.{name}.{key}": value for key, value in optimizer.state.get(parameter, {}).items()}
    # Some optimizers count their steps for a whole group of weights.
    for number, group in enumerate(optimizer.param_groups):
        state |= {f"optimizer.groups.{number}.{key}": value for key, value in group.items()}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {name: value.reshape(1) if value.dim() == 0 else value for name, value in tensors.items()}


def _make_state(optimizer: Optimizer) -> None:
    """Makes the state of an optimizer that has made no step, by one that changes nothing: there are tensors to read into then."""
    groups: Sequence[dict[str, object]] = optimizer.param_groups
    rates = [group["lr"] for group in groups]
    for group in groups:
        group["lr"] = 0.0
        for parameter in cast(list[Tensor], group["params"]):
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
