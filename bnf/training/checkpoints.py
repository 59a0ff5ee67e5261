"""Checkpoints of a sharded training: every process writes its shares of weights and optimizer, in safetensors.

A training goes on from them in any number of processes: each reads the parts that make up its own shares. Nothing in them is pickled.
What isn't a tensor of the optimizer (learning rates, betas) comes from the settings and the scheduler.
"""

import json
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import (
    OptimizerStateType,
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from bnf.files import write_json
from bnf.model.sharding import give_back
from bnf.parallel.group import process_number

_SHARES = "shares"
_SCHEDULER = "scheduler.json"

# The optimizer's state by parameter and by name in one level.
_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def save_shares(folder: Path, model: PreTrainedModel, optimizer: Optimizer) -> None:
    """Writes the trained weights and the optimizer's state. All processes must call it."""
    give_back(model)
    save(_state(model, optimizer), storage_writer=HuggingFaceStorageWriter(str(folder / _SHARES), save_distributed=True))


def load_shares(folder: Path, model: PreTrainedModel, optimizer: Optimizer) -> None:
    """Reads into model and optimizer what `save_shares` wrote, with any number of processes. All must call it."""
    give_back(model)
    # An optimizer that has made no step has no state to read into: this makes it.
    kept = get_optimizer_state_dict(model, optimizer, options=_FLAT)
    state = _state(model, optimizer)
    load(state, storage_reader=HuggingFaceStorageReader(str(folder / _SHARES)))
    read = {name: _like(state.get(f"optimizer.{name}"), value) for name, value in kept.items()}
    set_optimizer_state_dict(model, optimizer, cast(OptimizerStateType, read), options=_FLAT)


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
    """Reads what `save_random_state` wrote; False where another number of processes left none for this one."""
    file = _random_state(folder)
    if not file.is_file():
        return False
    state = load_file(file)
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
    return True


def _random_state(folder: Path) -> Path:
    return folder / f"random-{process_number():05d}.safetensors"


def _state(model: PreTrainedModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """What is saved: the weights that are trained, and the optimizer's tensors. A scalar has one dimension."""
    state: dict[str, Tensor] = {
        f"model.{name}": parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    for name, value in get_optimizer_state_dict(model, optimizer, options=_FLAT).items():
        if isinstance(value, Tensor):
            state[f"optimizer.{name}"] = value.reshape(1) if value.dim() == 0 else value
    return state


def _like(read: Tensor | None, kept: object) -> object:
    """What was read, in the shape in which the optimizer keeps it; what it keeps where nothing was saved."""
    if read is None:
        return kept
    return read.reshape(()) if isinstance(kept, Tensor) and kept.dim() == 0 else read
