"""Kahan summation on weights that FSDP2 shards over two processes: one process's bits, and a sharded state that can be loaded again.

`sharded_worker` runs it in its processes.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from bnf.training.arguments import training_arguments
from bnf.training.config import TrainConfig
from bnf.training.optimizers import rounding_optimizer


def made(folder: Path, mesh: DeviceMesh | None) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Two layers, of which one can't be halved evenly, and the optimizer of weights in bf16."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 129), torch.nn.Linear(129, 64, bias=False)).bfloat16()
    if mesh is not None:
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    config = TrainConfig(weights="bf16", learning_rate=1e-5, sharding="full", nproc_per_node=dist.get_world_size())
    optimizer = rounding_optimizer(config, training_arguments(config, folder, evaluates=False))
    assert optimizer is not None
    return model, optimizer[0](model.parameters(), weight_decay=0.01, **optimizer[1])


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    batch = torch.randn(8, 64, generator=torch.Generator().manual_seed(number)).bfloat16()
    model(batch).float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def compare(folder: Path, mesh: DeviceMesh) -> bool:
    """Whether weights and compensations that the two processes of the mesh share are those of one process, before and after a resume."""
    sharded, optimizer = made(folder, mesh)
    alone, its_optimizer = made(folder, None)
    for number in range(3):
        step(sharded, optimizer, number)
        step(alone, its_optimizer, number)
    # A new optimizer, with the state of the old one, goes on where that one was.
    state = get_optimizer_state_dict(sharded, optimizer)
    again, resumed = made(folder, mesh)
    again.load_state_dict(sharded.state_dict())
    set_optimizer_state_dict(again, resumed, state)
    for number in range(3, 6):
        step(alone, its_optimizer, number)
        step(again, resumed, number)
    same = []
    for parameter, whole in zip(again.parameters(), alone.parameters(), strict=True):
        compensation = resumed.state[parameter]["kahan_comp"]
        assert isinstance(parameter, DTensor) and isinstance(compensation, DTensor)
        same.append(torch.equal(parameter.full_tensor(), whole))
        same.append(torch.equal(compensation.full_tensor(), its_optimizer.state[whole]["kahan_comp"]))
    return all(same)
