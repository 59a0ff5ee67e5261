"""A training goes on from a checkpoint that is whole, and from no other."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bnf.training import run, same, weights

SETTINGS: dict[str, Any] = {"max_steps": 4, "save_steps": 2}


@pytest.fixture(scope="module")
def stopped(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was stopped after its third step."""
    folder = tmp_path_factory.mktemp("stopped")

    def stop(done: int, total: int, note: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(workplace, folder, stop, **SETTINGS)
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"])
def test_a_checkpoint_without_a_file_is_refused(name: str, stopped: Path, workplace: Path, tmp_path: Path) -> None:
    """transformers would begin with a new optimizer, and with the learning rate of the first step."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "checkpoints" / "checkpoint-2" / name
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(
        ValueError, match=rf"a checkpoint must be as it was written, got .*checkpoint-2 without {name}; restore"
    ):
        run(workplace, tmp_path, **SETTINGS)
    file.write_bytes(content[:-1])
    with pytest.raises(
        ValueError, match=rf"with {len(content) - 1} bytes of {name}, not {len(content)}; restore it, or delete"
    ):
        run(workplace, tmp_path, **SETTINGS)
    file.write_bytes(content)
    assert run(workplace, tmp_path, **SETTINGS)["resumed_from_step"] == 2


def test_it_notes_its_files(stopped: Path, workplace: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    noted = tmp_path / "checkpoints" / "checkpoint-2" / "files.json"
    noted.write_text(noted.read_text()[:20])
    with pytest.raises(ValueError, match=r"got .*checkpoint-2 without a list of its files \(files\.json\); restore"):
        run(workplace, tmp_path, **SETTINGS)
    shutil.rmtree(noted.parent)
    # Begun anew, as the message says.
    assert run(workplace, tmp_path, **SETTINGS)["resumed_from_step"] == 0
    run(workplace, tmp_path / "whole", **SETTINGS)
    assert same(weights(tmp_path), weights(tmp_path / "whole"))
