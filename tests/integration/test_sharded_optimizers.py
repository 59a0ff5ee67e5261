"""Kahan summation on weights that FSDP2 shards over two processes: one process's bits, and a sharded state that can be loaded again."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import Trainer  # noqa: F401  (before the processes start: its import takes seconds)

from bnf.training.arguments import training_arguments
from bnf.training.config import TrainConfig
from bnf.training.optimizers import rounding_optimizer

pytestmark = pytest.mark.integration
pytest.importorskip("optimi", reason="torch-optimi is not installed")


def made(folder: Path, *, sharded: bool) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Two layers, of which one can't be halved evenly, and the optimizer of weights in bf16."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 129), torch.nn.Linear(129, 64, bias=False)).bfloat16()
    if sharded:
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
    config = TrainConfig(weights="bf16", learning_rate=1e-5)
    optimizer = rounding_optimizer(config, training_arguments(config, folder, evaluates=False))
    assert optimizer is not None
    return model, optimizer[0](model.parameters(), weight_decay=0.01, **optimizer[1])


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    batch = torch.randn(8, 64, generator=torch.Generator().manual_seed(number)).bfloat16()
    model(batch).float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def compare(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    sharded, optimizer = made(folder, sharded=True)
    alone, its_optimizer = made(folder, sharded=False)
    for number in range(3):
        step(sharded, optimizer, number)
        step(alone, its_optimizer, number)
    # A new optimizer, with the state of the old one, goes on where that one was.
    state = get_optimizer_state_dict(sharded, optimizer)
    again, resumed = made(folder, sharded=True)
    again.load_state_dict(sharded.state_dict())
    set_optimizer_state_dict(again, resumed, state)
    for number in range(3, 6):
        step(alone, its_optimizer, number)
        step(again, resumed, number)
    for parameter, whole in zip(again.parameters(), alone.parameters(), strict=True):
        assert isinstance(parameter, DTensor) and isinstance(resumed.state[parameter]["kahan_comp"], DTensor)
        assert torch.equal(parameter.full_tensor(), whole)
        assert torch.equal(resumed.state[parameter]["kahan_comp"].full_tensor(), its_optimizer.state[whole]["kahan_comp"])
    dist.destroy_process_group()


def test_sharded_weights_end_at_one_processs_bits(tmp_path: Path) -> None:
    multiprocessing.spawn(compare, (tmp_path,), nprocs=2)
