"""Sharded training on CPU: FSDP2 over gloo processes, which torchrun starts."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from bnf.objectives import OBJECTIVES
from bnf.plugins import names
from tests.integration.sharded_worker import REFUSED
from tests.integration.test_parallel_training import closeness
from tests.unit.bnf.models import MODELS
from tests.unit.bnf.training import metrics, run, same, weights

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
# One, two and four processes have the same rows: several in a step, and not as many in each process.
SETTINGS: dict[str, Any] = {"global_batch_size": 128, "max_steps": 6, "save_steps": 2, "learning_rate": 0.003}
FULL: dict[str, Any] = {**SETTINGS, "sharding": "full"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What four processes found of sharded models (`sharded_worker`)."""
    folder = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "-m", "tests.integration.sharded_worker", str(folder)], check=True, cwd=ROOT, env=environment)
    entries: list[dict[str, Any]] = json.loads((folder / "found.json").read_text())
    return entries


def test_sharded_models_compute_what_whole_ones_do(found: list[dict[str, Any]]) -> None:
    """Of every family, with all weights and with adapters, tied and untied: the same bits."""
    assert {entry["name"] for entry in found} == set(MODELS)
    refused = {entry["name"]: entry["refused"] for entry in found if "refused" in entry}
    assert refused.keys() == set(REFUSED)
    assert all(
        "sharding must be none for a model whose files hold buffers, got model.layers.0.mlp" in why for why in refused.values()
    )
    for entry in (entry for entry in found if "refused" not in entry):
        placements = ["(Replicate(), Shard(dim=0))"] if entry["kind"] == "hybrid" else ["(Shard(dim=0),)"]
        assert entry["placements"] == placements, entry
        # What a first dimension has beyond a multiple of four lies in the first processes: two of six experts, say.
        assert entry["share"] == pytest.approx(entry["first share"], rel=1e-9), entry
        assert entry["share"] < (0.55 if entry["kind"] == "hybrid" else 0.35), entry
        assert entry["names"] and entry["gathered"], entry
        for bf16 in (False, True):
            assert entry[f"values {bf16}"], entry
            assert entry[f"gradients {bf16}"] == 0, entry
    kinds = {(entry["kind"], entry["lora"], entry["offload"]) for entry in found if entry["name"] == "llama_tied"}
    assert kinds == {(kind, lora, False) for kind in ("full", "hybrid") for lora in (False, True)} | {
        ("full", lora, True) for lora in (False, True)
    }


def test_every_objective_has_the_same_gradients(found: list[dict[str, Any]]) -> None:
    of_objectives = next(entry["objectives"] for entry in found if "objectives" in entry)
    assert of_objectives.keys() == set(names(OBJECTIVES))
    assert set(of_objectives.values()) == {0.0}


def test_generating_goes_through_the_sharded_model(found: list[dict[str, Any]]) -> None:
    assert all(entry["samples"] for entry in found if "refused" not in entry)


@pytest.fixture(scope="module")
def one(dev_workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains, with KTO, whose KL pairs and dev evaluations need forward passes of their own."""
    folder = tmp_path_factory.mktemp("one")
    run(dev_workplace, folder, **SETTINGS, **KTO)
    return folder


KTO: dict[str, Any] = {"objective": "kto", "dev_prompts": 5, "dev_max_new_tokens": 4, "eval_steps": 3}


@pytest.mark.parametrize("number", [1, 2, 4])
def test_shares_train_what_one_process_trains(number: int, one: Path, dev_workplace: Path, tmp_path: Path) -> None:
    summary = run(dev_workplace, tmp_path, **FULL, **KTO, nproc_per_node=number)
    assert summary["steps"] == 6
    closeness(one, tmp_path)
    ours, theirs = metrics(one), metrics(tmp_path)
    ignored = {"tokens_per_second", "peak_memory_gb", "eval_seconds"}
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert own.keys() == other.keys()
        for name in own.keys() - ignored:
            assert own[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), (name, own["step"])


def test_adapters_are_sharded_too(workplace: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"lora_r": 4, "lora_target_modules": ["q_proj", "down_proj"], "gradient_checkpointing": True}
    run(workplace, tmp_path / "one", **SETTINGS, **more)
    run(workplace, tmp_path / "two", **FULL, **more, nproc_per_node=2)
    closeness(tmp_path / "one", tmp_path / "two")
    files = [sorted(path.name for path in (tmp_path / name / "adapter_checkpoint").iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]


def stop_at(workplace: Path, output: Path, do: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """Trains in a process of its own, which does `do` where step 5 is reported."""
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.integration.test_sharded_training import kill_a_rank\n"
        "from tests.unit.bnf.training import run\n"
        "def progress(done, total, note):\n"
        "    if done == 5:\n"
        f"        {do}\n"
        f"run(Path({str(workplace)!r}), Path({str(output)!r}), progress, **{settings!r})\n"
    )
    return subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, env=dict(os.environ), stderr=subprocess.PIPE)


def kill_a_rank(call: Path) -> None:
    """Kills the second of the processes that train for this launch.json."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if str(call).encode() in command and b"\0compute\0" in command and b"\0RANK=1\0" in b"\0" + environment:
            os.kill(int(process.name), signal.SIGKILL)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (4, 2)])
def test_a_training_goes_on_in_another_number_of_processes(
    before: int, after: int, workplace: Path, tmp_path: Path, whole: Callable[[], Path]
) -> None:
    stopped = stop_at(workplace, tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", **FULL, nproc_per_node=before)
    assert stopped.returncode == -signal.SIGKILL
    assert run(workplace, tmp_path, **FULL, nproc_per_node=after)["resumed_from_step"] == 4
    closeness(whole(), tmp_path)


@pytest.fixture(scope="module")
def whole(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """What two processes train that nothing stops."""
    folder = tmp_path_factory.mktemp("whole")

    def trained() -> Path:
        if not (folder / "policy").exists():
            run(workplace, folder, **FULL, nproc_per_node=2)
        return folder

    return trained


def test_a_rank_that_is_killed_ends_all_and_the_training_goes_on_to_the_same_bits(
    workplace: Path, tmp_path: Path, whole: Callable[[], Path]
) -> None:
    kill = f"kill_a_rank(Path({str(tmp_path / 'launch.json')!r}))"
    stopped = stop_at(workplace, tmp_path, kill, **FULL, nproc_per_node=2)
    assert stopped.returncode == 1
    assert (
        b"RuntimeError: process 1 was ended by SIGKILL: it may have needed more memory than there was; started again"
        in stopped.stderr
    )
    (checkpoint,) = (tmp_path / "checkpoints").glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-4"
    names = sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())
    assert names == [
        "files.json",
        "random-00000.safetensors",
        "random-00001.safetensors",
        "scheduler.json",
        "shares/shard-00001-model-00001-of-00001.safetensors",
        "shares/shard-00002-model-00001-of-00001.safetensors",
        "trainer_state.json",
    ]
    policy = weights(whole())
    tensors = {name for name in policy if name != "lm_head.weight"}  # A tied head is the embedding.
    moments = {f"optimizer.state.{name}.{moment}" for name in tensors for moment in ("exp_avg", "exp_avg_sq")}
    shares = {f"model.{name}" for name in tensors} | moments
    held = []
    for name in names[4:6]:
        with safe_open(checkpoint / name, framework="pt") as file:
            held.append(set(file.keys()))
    # Every process writes its share of every tensor; the counts of steps, which are whole, are in one of the files.
    assert shares <= held[0] and shares <= held[1]
    assert (held[0] | held[1]) - shares == {f"optimizer.state.{name}.step" for name in tensors}
    assert run(workplace, tmp_path, **FULL, nproc_per_node=2)["resumed_from_step"] == 4
    assert same(policy, weights(tmp_path))


def test_a_folder_of_whole_checkpoints_is_not_gone_on_with_in_shares(workplace: Path, tmp_path: Path) -> None:
    run(workplace, tmp_path, **(SETTINGS | {"max_steps": 1}))
    with pytest.raises(ValueError, match=r"output_dir must be new or hold the same training, got .* with another config"):
        run(workplace, tmp_path, **(FULL | {"max_steps": 1}))
