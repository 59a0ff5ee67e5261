"""One of the processes of test_sharded_training: sharded models against whole ones, row by row.

torchrun … -m tests.integration.sharded_worker FOLDER [NAME …]

The models of these names are compared with adapters, too.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from bnf.data.packing import Row, pack
from bnf.model.loading import load_model, saved_buffers
from bnf.model.logps import row_logps
from bnf.model.sharding import give_back, load_sharded, whole_parameters
from bnf.objectives import OBJECTIVES, load_objective
from bnf.parallel.group import meet
from bnf.parallel.placement import Placement
from bnf.plugins import names
from bnf.reference.values import RowReference
from bnf.training.adapters import add_adapter, transformers_model
from bnf.training.config import TrainConfig
from bnf.training.dev import sample
from bnf.training.losses import Totals, assemble, total_loss
from tests.integration import sharded_optimizers
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.models import MODELS, make


def compare(name: str, folder: Path, placement: Placement, *, lora: bool, checkpointing: bool) -> dict[str, Any]:
    """How far values and gradients of a row are from those of the whole model, and how the parameters lie."""
    row, *_ = pack(random_groups(4), 200)
    config = TrainConfig(objective="sft", lora_r=2 if lora else 0, bf16=False)

    def adapt(model: Any) -> Any:
        return add_adapter(model, config) if lora else model

    whole: Any = adapt(load_model(folder / name, gradient_checkpointing=checkpointing)).train()
    shared: Any = load_sharded(folder / name, placement, gradient_checkpointing=checkpointing, adapt=adapt).train()
    found: dict[str, Any] = {"name": name}
    parameters = dict(shared.named_parameters())
    found["placements"] = sorted({str(p.placements) if isinstance(p.data, DTensor) else "whole" for p in parameters.values()})
    found["names"] = list(parameters) == [n for n, _ in whole.named_parameters()]
    num = dist.get_world_size() if placement.sharding == "full" else placement.nproc_per_node
    # A first dimension is cut into pieces of equal size, and this process has a whole one.
    first = sum(-(-p.shape[0] // num) * p[0].numel() for p in whole.parameters())
    found["first share"] = first / sum(p.numel() for p in whole.parameters())
    held = [[(n, b.tolist()) for n, b in saved_buffers(model)] for model in (whole, shared)]
    found["buffers"] = held[0] == held[1]
    found["share"] = sum(p.to_local().numel() for p in parameters.values()) / sum(p.numel() for p in whole.parameters())
    for bf16 in (False, True):
        # While the last unit is gathered, a sharded model shows the gathered parameters.
        whole.zero_grad(), shared.zero_grad()
        own = row_logps(transformers_model(whole), row, bf16=bf16)
        theirs = row_logps(transformers_model(shared), row, bf16=bf16)
        found[f"values {bf16}"] = torch.equal(own.logps, theirs.logps) and torch.equal(own.log_odds, theirs.log_odds)
        own.logps.sum().backward()
        theirs.logps.sum().backward()
        gradients = {n: p.grad.full_tensor() for n, p in parameters.items() if p.grad is not None}
        expected = {n: p.grad for n, p in whole.named_parameters() if p.grad is not None}
        assert gradients.keys() == expected.keys()
        # Each process computes the same row, and their mean is the row's own gradient.
        found[f"gradients {bf16}"] = max(float((gradients[n] - expected[n]).abs().max()) for n in expected)
    with torch.no_grad():
        row_logps(transformers_model(shared), row, bf16=False)
    # Three prompts for four processes; the last one takes part in another's.
    prompts = [tuple(group.prompt_ids) for group in row.groups[:3]]
    longest = 1 + max(map(len, prompts))
    drawn = [sample(model, prompts, max_new_tokens=5, max_tokens=longest, seed=0, bf16=False) for model in (whole, shared)]
    found["samples"] = drawn[0] == drawn[1]
    if name == "llama" and placement.sharding == "full" and not lora and not placement.cpu_offload:
        found["objectives"] = {objective: difference(objective, whole, shared, row) for objective in names(OBJECTIVES)}
    gathered = dict(whole_parameters(shared))
    if dist.get_rank() == 0:
        found["gathered"] = all(torch.equal(gathered[n], p.detach()) for n, p in whole.named_parameters())
    return found


def difference(name: str, whole: Any, shared: Any, row: Row) -> float:
    """How far an objective's gradients are from those of the whole model."""
    objective = load_objective(name)
    gradients = []
    give_back(shared)
    for model in (whole, shared):
        model.zero_grad()
        policy = row_logps(model, row, bf16=False, prompts=objective.needs_prompts)
        reference = RowReference(policy.logps.detach() - 0.1, policy.log_odds - 0.1)
        pairs = torch.tensor(0.1, dtype=torch.float64) if objective.needs_kl_pairs else None
        assembled = assemble(row, policy, reference, kl_pair_logratio=pairs)
        total_loss(objective.losses(assembled), assembled, Totals(3, 2, pairs)).backward()
        held = [p.grad for p in model.parameters() if p.grad is not None]
        gradients.append([g.full_tensor() if isinstance(g, DTensor) else g for g in held])
    assert len(gradients[0]) == len(gradients[1])
    return max(float((own - other).abs().max()) for own, other in zip(*gradients, strict=True))


def main() -> None:
    folder, adapted = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    meet()
    found = []
    if dist.get_rank() == 0:
        for name in MODELS:
            model = make(name, torch.float32)
            model.generation_config.eos_token_id = 1
            for buffer_name, buffer in saved_buffers(model):
                # Another value than the configuration's.
                assert buffer_name.endswith((".beta", ".eps"))
                buffer *= 1.5
            model.save_pretrained(folder / name)
    dist.barrier()
    kinds = [Placement(4, sharding="full"), Placement(2, 2, sharding="hybrid"), Placement(4, sharding="full", cpu_offload=True)]
    for name in sorted(MODELS):
        for number, placement in enumerate(kinds if name in ("llama", "llama_tied") else kinds[:1]):
            for lora in (False, True) if name in adapted else (False,):
                entry = compare(name, folder, placement, lora=lora, checkpointing=number == 0 and lora)
                found.append(entry | {"kind": placement.sharding, "lora": lora, "offload": placement.cpu_offload})
    if importlib.util.find_spec("optimi") is not None:
        # Both pairs of processes do the same.
        same = sharded_optimizers.compare(folder, init_device_mesh("cpu", (2, 2), mesh_dim_names=("pair", "share"))["share"])
        (folder / f"kahan-{dist.get_rank()}.json").write_text(json.dumps(same))
    if dist.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
