"""Whoever may read a new file here may read what a training leaves."""

import os
import stat
from pathlib import Path

import pytest

from bnf.data.groups import write_groups
from bnf.training.config import TrainConfig
from bnf.training.own_reference import cache_for
from bnf.training.preparation import Folders
from bnf.training.trainer import train
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.training import ignore


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_policy_adapters_and_reference_have_the_permissions_of_any_new_file(
    tiny_model_dir: Path, tmp_path: Path, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        write_groups(tmp_path / "groups", random_groups(4))
        config = TrainConfig(max_tokens_per_row=64, global_batch_size=2, lora_r=2, save_steps=1)
        reference, output = tmp_path / "reference", tmp_path / "out"
        cache_for(config, tiny_model_dir, tmp_path / "groups", reference, ignore)
        folders = Folders(tiny_model_dir, tmp_path / "groups", reference, output)
        seen: set[int] = set()

        def look(done: int, total: int, note: str) -> None:
            seen.update(modes(output / "checkpoints"))

        train(config, folders, step0_check=True, progress=look)
    finally:
        assert os.umask(before) == mask, "the umask itself stays as it was"
    assert modes(tmp_path) == {mode} and seen == {mode}
    assert {"model.safetensors", "adapter_model.safetensors"} <= {path.name for path in output.rglob("*")}
