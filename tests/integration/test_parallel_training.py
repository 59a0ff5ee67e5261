"""Training in two processes, which torchrun starts, on CPU."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bnf.data.groups import read_groups
from bnf.reference.cache import cache_reference
from bnf.training.collapse import TrainingCollapsed
from bnf.training.config import TrainConfig
from bnf.training.launch import launch
from bnf.training.own_reference import ReferenceMismatch
from bnf.training.parallel import SeededSteps
from bnf.training.preparation import Folders
from bnf.training.rows import training_rows
from bnf.training.trainer import train
from tests.unit.bnf.training import BASE, ignore, metrics, run, weights

pytestmark = pytest.mark.integration

# Rows of a step that two processes can't share evenly.
SETTINGS: dict[str, Any] = {"global_batch_size": 10, "num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.02}


def closeness(first: Path, second: Path) -> None:
    """Equal but for the order in which numbers are added."""
    ours, theirs = weights(first), weights(second)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_two_processes_whiten_over_the_batch_of_both(workplace: Path, tmp_path: Path) -> None:
    more = {"objective": "reinforce", "objective_options": {"whiten": True}, "max_steps": 2}
    settings = {name: value for name, value in SETTINGS.items() if name != "num_train_epochs"}
    run(workplace, tmp_path / "one", **settings, **more)
    run(workplace, tmp_path / "two", **settings, **more, nproc_per_node=2)
    closeness(tmp_path / "one", tmp_path / "two")


def test_two_processes_train_what_one_trains(dev_workplace: Path, tmp_path: Path) -> None:
    # KTO shares one number more between the rows of a step than the others do.
    more = {"objective": "kto", "dev_prompts": 4, "dev_max_new_tokens": 4, "report_to": "tensorboard"}
    one = run(dev_workplace, tmp_path / "one", **SETTINGS, **more)
    reported: list[tuple[int, int]] = []
    two = run(
        dev_workplace,
        tmp_path / "two",
        lambda done, total, note: reported.append((done, total)),
        **SETTINGS,
        **more,
        nproc_per_node=2,
    )
    # Steps of 5 and of 6 rows.
    assert one["rows_per_step"] == two["rows_per_step"] == 5.5
    # An evaluation that takes long reports under its step, 0 before the first.
    assert [found for found in dict.fromkeys(reported) if found[0]] == [
        (step, two["steps"]) for step in range(1, two["steps"] + 1)
    ]
    closeness(tmp_path / "one", tmp_path / "two")
    first, second = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert second[1]["weights/chosen"] == second[1]["weights/rejected"] == 1
    ignored = {"tokens_per_second", "peak_memory_gb", "eval_seconds"}
    for ours, theirs in zip(first, second, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - ignored:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), (name, ours["step"])
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1


def test_killed_processes_resume(workplace: Path, tmp_path: Path) -> None:
    """Adapters in two processes, killed with the one that launched them; none of them lives on."""
    # Of 12 steps: what the processes do between the report of step 7 and the kill doesn't reach the next checkpoint.
    settings = SETTINGS | {"lora_r": 4, "num_train_epochs": 6, "save_steps": 6}
    run(workplace, tmp_path / "whole", **settings)
    settings["nproc_per_node"] = 2
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.unit.bnf.training import run\n"
        "def kill(done, total, note):\n"
        "    if done == 7:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"run(Path({str(workplace)!r}), Path({str(tmp_path / 'killed')!r}), kill, **{settings!r})\n"
    )
    process = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[3], env=dict(os.environ))
    assert process.returncode == -signal.SIGKILL
    call = str(tmp_path / "killed" / "launch.json").encode()
    deadline = 100
    while deadline and any(call in command.read_bytes() for command in running()):
        deadline -= 1
        time.sleep(0.1)
    assert deadline, "processes live on"
    assert run(workplace, tmp_path / "killed", **settings)["resumed_from_step"] == 6
    closeness(tmp_path / "whole", tmp_path / "killed")


def test_a_reference_that_fits_one_process_alone_is_computed_again(workplace: Path, tmp_path: Path) -> None:
    """The second process has the row that differs; the first one, which keeps the note, has none."""
    for name in ("model", "groups"):
        (tmp_path / name).symlink_to(workplace / name)
    shutil.copytree(workplace / "reference_False", tmp_path / "reference_False")
    settings = SETTINGS | {"nproc_per_node": 2}
    config = TrainConfig(**settings, max_tokens_per_row=48)
    groups = read_groups(workplace / "groups")
    rows = training_rows(config, groups)
    num_steps = config.steps_per_epoch(len(groups))
    steps = SeededSteps([len(row.groups) for row in rows], 0, num_steps=num_steps, process=1, num_processes=2)
    wrong = next(iter(steps))[0]
    (shard,) = (tmp_path / "reference_False").glob("*.safetensors")
    with safe_open(shard, framework="pt") as file:
        metadata, values = file.metadata(), {name: file.get_tensor(name) for name in ("logps", "log_odds")}
    start = sum(row.num_completion_tokens for row in rows[:wrong])
    values["log_odds"][start : start + rows[wrong].num_completion_tokens] += 0.5
    save_file(values, shard, metadata=metadata)
    with pytest.raises(
        ReferenceMismatch, match=r"mean weight at step 0 must be 1 .* started again, training computes the reference"
    ):
        run(tmp_path, tmp_path / "out", **settings)
    summary = run(tmp_path, tmp_path / "out", **settings)
    assert 0 < abs(summary["reference_mismatch"] - 1) < 1
    assert metrics(tmp_path / "out")[0]["weights/rejected"] == 1


def test_values_of_old_serve_two_processes_and_are_computed_by_both(workplace: Path, tmp_path: Path) -> None:
    """A later round, whose start's cached values another kind of device computed."""
    run(workplace, tmp_path / "round1", objective="grpo", max_steps=1)
    start, old, there = tmp_path / "round1" / "policy", tmp_path / "old", tmp_path / "old_there"
    cache_reference(start, workplace / "groups", old, max_tokens_per_row=48, bf16=False, progress=ignore)
    shutil.copytree(old, there)
    index = json.loads((there / "index.json").read_text())
    (there / "index.json").write_text(json.dumps({**index, "head_logits": 1}))
    settings = {**BASE, "max_steps": 1, "objective": "grpo", "objective_options": {"kl_coef": 0.1}}
    made = []
    for name, begin, cached, more in (("one", train, old, {}), ("two", launch, there, {"nproc_per_node": 2})):
        reference = workplace / "reference_False"
        folders = Folders(start, workplace / "groups", reference, tmp_path / name, workplace / "model", cached)
        made.append(begin(TrainConfig(**settings, **more), folders, step0_check=False, progress=ignore).to_json())
        assert metrics(tmp_path / name)[0]["ratio"] == 1 and metrics(tmp_path / name)[0]["logps_shift/chosen"] != 0
    assert "old_made_elsewhere" not in made[0] and made[1]["old_made_elsewhere"].startswith("head_logits 1, here ")
    closeness(tmp_path / "one", tmp_path / "two")


@pytest.mark.nightly
def test_a_reference_of_another_device_is_computed_again_for_all_processes(workplace: Path, tmp_path: Path) -> None:
    for name in ("model", "groups"):
        (tmp_path / name).symlink_to(workplace / name)
    shutil.copytree(workplace / "reference_False", tmp_path / "reference_False")
    index = tmp_path / "reference_False" / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "head_logits": 1}))
    settings = {name: value for name, value in SETTINGS.items() if name != "num_train_epochs"}
    summary = run(tmp_path, tmp_path / "out", **settings, max_steps=1, nproc_per_node=2)
    assert summary["reference_made_elsewhere"].startswith("head_logits 1, here ")
    assert metrics(tmp_path / "out")[0]["weights/chosen"] == 1


def running() -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.is_file()]


def test_what_a_process_raises_is_raised(workplace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrainingCollapsed, match=r"must be finite, got (nan|inf) at step"):
        run(workplace, tmp_path, **(SETTINGS | {"learning_rate": 1e30}), nproc_per_node=2)
    assert json.loads((tmp_path / "launch.json").read_text())["config"]["nproc_per_node"] == 2
    # The message is all that a person needs.
    assert "Traceback" not in capfd.readouterr().err
