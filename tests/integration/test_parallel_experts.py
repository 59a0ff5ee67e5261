"""A mixture of experts in two processes: each sees other tokens, and so may visit other experts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bnf.data.groups import read_groups
from bnf.model.loading import load_model
from bnf.model.logps import row_logps
from bnf.training.config import TrainConfig
from bnf.training.parallel import SeededSteps
from bnf.training.rows import training_rows
from tests.unit.bnf.training import BASE, metrics, run, weights, workplace_of

pytestmark = pytest.mark.integration

# AdamW moves a weight whose gradient is zero, by its decay and its momentum, and leaves one that has none.
SETTINGS: dict[str, Any] = {"global_batch_size": 12, "max_tokens_per_row": 48, "num_train_epochs": 4, "weight_decay": 0.5}


def test_the_processes_visit_other_experts_and_train_what_one_trains(tmp_path: Path) -> None:
    # Without renormalized weights: with them the router's gradient for experts that were not chosen is zero but for rounding, of which
    # AdamW makes whole steps.
    place = workplace_of("olmoe", tmp_path, num_experts=64)
    visited = [experts_of_the_first_step(place, process) for process in range(2)]
    assert visited[0] - visited[1] and visited[1] - visited[0] and len(visited[0] | visited[1]) < 64
    run(place, tmp_path / "one", **SETTINGS)
    run(place, tmp_path / "two", **SETTINGS, nproc_per_node=2)
    ours, theirs, before = weights(tmp_path / "one"), weights(tmp_path / "two"), load_model(place / "model")
    assert len(ours) > len(dict(before.named_parameters()))  # a tensor for each expert
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5, msg=name)
    assert metrics(tmp_path / "two")[0]["weights/chosen"] == 1


def experts_of_the_first_step(place: Path, process: int) -> set[int]:
    config = TrainConfig(**(BASE | SETTINGS), nproc_per_node=2)
    groups = read_groups(place / "groups")
    rows = training_rows(config, groups)
    num_steps = config.steps_per_epoch(len(groups))
    steps = SeededSteps([len(row.groups) for row in rows], config.seed, num_steps=num_steps, process=process, num_processes=2)
    model = load_model(place / "model")
    chosen: set[int] = set()
    experts = model.model.layers[0].mlp.experts
    experts.register_forward_pre_hook(lambda module, inputs: chosen.update(inputs[1].flatten().tolist()))
    for row in next(iter(steps)):
        with torch.no_grad():
            row_logps(model, rows[row], bf16=False)
    return chosen
