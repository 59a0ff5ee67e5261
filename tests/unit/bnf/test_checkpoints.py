"""A training goes on from a checkpoint that is whole, and from no other."""

import os
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


def test_an_older_checkpoint_goes_when_the_new_one_is_on_the_disk(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut between both would else leave none that is whole."""
    synced: set[int] = set()
    dropped: list[str] = []
    fsync, rmtree = os.fsync, shutil.rmtree

    def note_sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def note_drop(path: Any, *args: Any, **options: Any) -> None:
        if Path(path).name == "checkpoint-2":
            new = Path(path).with_name("checkpoint-4")
            lacking = [file.name for file in (*new.rglob("*"), new, new.parent) if file.stat().st_ino not in synced]
            dropped.extend(lacking or ["nothing lacks"])
        rmtree(path, *args, **options)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(shutil, "rmtree", note_drop)
    run(workplace, tmp_path, max_steps=5, save_steps=2)
    assert dropped == ["nothing lacks"]


def test_a_policy_is_on_the_disk_before_the_training_counts_as_ended(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a training that goes on after a power cut would give an empty policy as its own."""
    synced: set[int] = set()
    ended: list[bool] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def note_name(source: Any, target: Any) -> None:
        if Path(target).name == "train_summary.json":
            ended.append(all(file.stat().st_ino in synced for file in (tmp_path / "policy").rglob("*")))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_name)
    run(workplace, tmp_path, max_steps=1)
    assert ended == [True] and (tmp_path / "policy" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("content", [b"", b"\0" * 64])
def test_notes_that_a_power_cut_left_end_no_training(content: bytes, workplace: Path, tmp_path: Path) -> None:
    for name in ("training.json", "train_summary.json", "reference_mismatch.json"):
        (tmp_path / name).write_bytes(content)
    assert run(workplace, tmp_path, max_steps=1)["resumed_from_step"] == 0


def test_checkpoints_of_an_unknown_training_are_refused(stopped: Path, workplace: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (tmp_path / "training.json").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must say in training\.json which training .*; restore the file, or delete"):
        run(workplace, tmp_path, **SETTINGS)


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
