"""Sharded training on CPU: FSDP2 over gloo processes, which torchrun starts."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from bnf.objectives import OBJECTIVES
from bnf.plugins import names
from tests.integration.test_parallel_training import closeness
from tests.unit.bnf.models import MODELS
from tests.unit.bnf.training import metrics, run, same, weights

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
# One, two and four processes have the same rows: several in a step, and not as many in each process.
SETTINGS: dict[str, Any] = {"global_batch_size": 128, "max_steps": 6, "save_steps": 2, "learning_rate": 0.003}
FULL: dict[str, Any] = {**SETTINGS, "sharding": "full"}


# Of the models with adapters: a tied and an untied one, soft caps and windows, experts of two kinds.
ADAPTED = ("llama", "llama_tied", "gemma2", "qwen3_moe", "gpt_oss")


@pytest.fixture(scope="module", params=[ADAPTED, pytest.param(tuple(MODELS), marks=pytest.mark.nightly)], ids=["some", "all"])
def worked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four processes left (`sharded_worker`)."""
    folder = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "-m", "tests.integration.sharded_worker", str(folder), *request.param], check=True, cwd=ROOT, env=environment
    )
    return folder


@pytest.fixture(scope="module")
def found(worked: Path) -> list[dict[str, Any]]:
    """What they found of sharded models."""
    entries: list[dict[str, Any]] = json.loads((worked / "found.json").read_text())
    return entries


def test_sharded_models_compute_what_whole_ones_do(found: list[dict[str, Any]]) -> None:
    """The bits are the same. All weights are compared for every family, adapters for `ADAPTED`; nightly, adapters for every family too."""
    assert {entry["name"] for entry in found} == set(MODELS)
    for entry in found:
        placements = ["(Replicate(), Shard(dim=0))"] if entry["kind"] == "hybrid" else ["(Shard(dim=0),)"]
        assert entry["placements"] == placements, entry
        # What a first dimension has beyond a multiple of four lies in the first processes: two of six experts, say.
        assert entry["share"] == pytest.approx(entry["first share"], rel=1e-9), entry
        assert entry["share"] < (0.55 if entry["kind"] == "hybrid" else 0.35), entry
        assert entry["names"] and entry["gathered"] and entry["buffers"], entry
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
    assert all(entry["samples"] for entry in found)


def test_kahan_summation_on_shards_ends_at_one_processs_bits(worked: Path) -> None:
    """Two processes train bf16 weights, and load the optimizer's state half-way (`sharded_optimizers`)."""
    pytest.importorskip("optimi", reason="torch-optimi is not installed")
    assert [json.loads((worked / f"kahan-{rank}.json").read_text()) for rank in range(4)] == [True] * 4


KTO: dict[str, Any] = {"objective": "kto", "dev_prompts": 5, "dev_max_new_tokens": 4, "eval_steps": 3}


@pytest.fixture(scope="module")
def one(dev_workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains, with KTO, whose KL pairs and dev evaluations need forward passes of their own."""
    folder = tmp_path_factory.mktemp("one")
    run(dev_workplace, folder, **SETTINGS, **KTO)
    return folder


@pytest.fixture(scope="module")
def two(dev_workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes train of it in shares, and nothing stops."""
    folder = tmp_path_factory.mktemp("two")
    assert run(dev_workplace, folder, **FULL, **KTO, nproc_per_node=2)["steps"] == 6
    return folder


def train_the_same(one: Path, shares: Path) -> None:
    """Asserts that weights and metrics agree within 1e-4: only the order of additions may differ."""
    closeness(one, shares)
    ours, theirs = metrics(one), metrics(shares)
    ignored = {"tokens_per_second", "peak_memory_gb", "eval_seconds"}
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert own.keys() == other.keys()
        for name in own.keys() - ignored:
            assert own[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), (name, own["step"])


def test_two_shares_train_what_one_process_trains(one: Path, two: Path) -> None:
    train_the_same(one, two)


@pytest.mark.nightly
@pytest.mark.parametrize("number", [1, 4])
def test_shares_of_any_number_train_what_one_process_trains(
    number: int, one: Path, dev_workplace: Path, tmp_path: Path
) -> None:
    assert run(dev_workplace, tmp_path, **FULL, **KTO, nproc_per_node=number)["steps"] == 6
    train_the_same(one, tmp_path)


def test_adapters_are_sharded_too(workplace: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"lora_r": 4, "lora_target_modules": ["q_proj", "down_proj"], "gradient_checkpointing": True}
    run(workplace, tmp_path / "one", **SETTINGS, **more)
    run(workplace, tmp_path / "two", **FULL, **more, nproc_per_node=2)
    closeness(tmp_path / "one", tmp_path / "two")
    files = [sorted(path.name for path in (tmp_path / name / "adapter_checkpoint").iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]


def kill_a_rank(call: Path) -> None:
    """Kills the second of the processes that train for this launch.json."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if str(call).encode() in command and b"\0compute\0" in command and b"\0RANK=1\0" in b"\0" + environment:
            os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture(scope="module")
def stopped(dev_workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What a training in two shares left of which one process was killed, and what its launcher raised."""
    folder = tmp_path_factory.mktemp("stopped")

    def kill(done: int, total: int, note: str) -> None:
        if done == 5:
            kill_a_rank(folder / "launch.json")

    with pytest.raises(RuntimeError) as raised:
        run(dev_workplace, folder, kill, **FULL, **KTO, nproc_per_node=2)
    return folder, str(raised.value)


def test_a_rank_that_is_killed_ends_all_and_the_training_goes_on_to_the_same_bits(
    stopped: tuple[Path, str], dev_workplace: Path, tmp_path: Path, two: Path
) -> None:
    folder, why = stopped
    assert "process 1 was ended by SIGKILL: it may have needed more memory than there was; started again" in why
    left = shutil.copytree(folder, tmp_path / "left")
    (checkpoint,) = (left / "checkpoints").glob("checkpoint-*")
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
    policy = weights(two)
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
    assert run(dev_workplace, left, **FULL, **KTO, nproc_per_node=2)["resumed_from_step"] == 4
    assert same(policy, weights(left))


def test_a_training_goes_on_in_one_process(stopped: tuple[Path, str], dev_workplace: Path, tmp_path: Path, two: Path) -> None:
    left = shutil.copytree(stopped[0], tmp_path / "left")
    assert run(dev_workplace, left, **FULL, **KTO, nproc_per_node=1)["resumed_from_step"] == 4
    closeness(two, left)


def kill_the_launcher(workplace: Path, output: Path, **settings: Any) -> int:
    """Trains in a process of its own, which kills itself where step 5 is reported."""
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.unit.bnf.training import run\n"
        "def progress(done, total, note):\n"
        "    if done == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"run(Path({str(workplace)!r}), Path({str(output)!r}), progress, **{settings!r})\n"
    )
    return subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, env=dict(os.environ)).returncode


@pytest.mark.nightly
@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 2)])
def test_a_training_whose_launcher_was_killed_goes_on_in_another_number_of_processes(
    before: int, after: int, dev_workplace: Path, tmp_path: Path, two: Path
) -> None:
    assert kill_the_launcher(dev_workplace, tmp_path, **FULL, **KTO, nproc_per_node=before) == -signal.SIGKILL
    assert run(dev_workplace, tmp_path, **FULL, **KTO, nproc_per_node=after)["resumed_from_step"] == 4
    closeness(two, tmp_path)


def test_a_folder_of_whole_checkpoints_is_not_gone_on_with_in_shares(workplace: Path, tmp_path: Path) -> None:
    run(workplace, tmp_path, **(SETTINGS | {"max_steps": 1}))
    with pytest.raises(ValueError, match=r"output_dir must be new or hold the same training, got .* with another config"):
        run(workplace, tmp_path, **(FULL | {"max_steps": 1}))
