"""Sharded training on CPU: FSDP2 over gloo processes, which torchrun starts."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_parallel_training import SETTINGS, closeness
from tests.unit.bnf.training import metrics, run

pytestmark = pytest.mark.integration


def test_shares_train_what_one_process_trains(dev_workplace: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"objective": "kto", "dev_prompts": 4, "dev_max_new_tokens": 4}
    run(dev_workplace, tmp_path / "one", **SETTINGS, **more)
    for number in (1, 2):
        run(dev_workplace, tmp_path / str(number), **SETTINGS, **more, nproc_per_node=number, sharding="full")
        closeness(tmp_path / "one", tmp_path / str(number))
    assert metrics(tmp_path / "2")[1]["weights/chosen"] == 1
