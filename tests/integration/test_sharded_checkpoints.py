"""Checkpoints of weights and optimizers that two processes share."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file, save_file
from transformers import Trainer

from bnf.data.packing import pack
from bnf.model.loading import load_values
from bnf.model.logps import row_logps
from bnf.model.sharding import load_sharded, whole_parameters
from bnf.training.adapters import add_adapter, transformers_model
from bnf.training.arguments import training_arguments
from bnf.training.checkpoints import load_shares, save_shares
from bnf.training.config import TrainConfig
from bnf.training.optimizers import rounding_optimizer
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import make

pytestmark = pytest.mark.integration

TWO: dict[str, Any] = {"sharding": "full", "nproc_per_node": 2, "objective": "sft"}
TRAININGS = {
    "adamw": TrainConfig(**TWO, bf16=False),
    "adapters": TrainConfig(**TWO, bf16=False, lora_r=2),
    "kahan": TrainConfig(**TWO, weights="bf16"),
}


def begun(folder: Path, config: TrainConfig) -> tuple[Any, torch.optim.Optimizer]:
    """A sharded model as it is loaded, and its optimizer."""

    def adapt(model: Any) -> Any:
        return add_adapter(model, config)

    model = load_sharded(folder / "model", config.placement, weights=config.weights, adapt=adapt if config.lora_r else None)
    arguments = training_arguments(config, folder, evaluates=False)
    optimizer, settings = rounding_optimizer(config, arguments) or Trainer.get_optimizer_cls_and_kwargs(arguments)
    # As transformers makes them: decayed weights and others.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim == 1]},
    ]
    return model, optimizer([group for group in groups if group["params"]], **{**settings, "lr": 1e-3})


def step(model: Any, optimizer: torch.optim.Optimizer, config: TrainConfig) -> None:
    row, *_ = pack(random_groups(3), 200)
    row_logps(transformers_model(model), row, bf16=config.bf16).logps.sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def go_on(rank: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for name, config in TRAININGS.items():
        model, optimizer = begun(folder, config)
        for _ in range(2):
            step(model, optimizer, config)
        save_shares(folder / name, model, optimizer)
        again, resumed = begun(folder, config)
        load_shares(folder / name, again, resumed)
        step(model, optimizer, config)
        step(again, resumed, config)
        # The third step reads every state: momentum, compensation, the count of steps.
        for (of, own), (_, other) in zip(whole_parameters(model), whole_parameters(again), strict=True):
            assert torch.equal(own, other), (name, of)
        assert [group["lr"] for group in resumed.param_groups] == [group["lr"] for group in optimizer.param_groups], name

    # What can't be written is said in one line.
    if rank == 0:
        (folder / "a file").write_text("")
    dist.barrier()
    with pytest.raises(OSError, match=r"must be able to write its share of .*a file.*, got: ") as error:
        save_shares(folder / "a file", model, optimizer)
    assert "Traceback" not in str(error.value)
    # Tensors that are wider than config.json says keep their values.
    of_files = load_values(folder / "model") if rank == 0 else {}
    for of, whole in whole_parameters(begun(folder, TRAININGS["adamw"])[0]):
        assert rank or torch.equal(whole, of_files[of].float())
    assert rank or of_files["model.norm.weight"][0] == 1 + 2**-20
    dist.destroy_process_group()


def test_a_training_goes_on_with_every_state(tmp_path: Path) -> None:
    pytest.importorskip("optimi", reason="torch-optimi is not installed")
    make("llama_tied", torch.bfloat16).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = torch.full((24,), 1 + 2**-20)
    save_file(tensors, file, metadata={"format": "pt"})
    multiprocessing.spawn(go_on, (tmp_path,), nprocs=2)
