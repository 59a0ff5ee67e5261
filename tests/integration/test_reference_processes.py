"""The reference pass in several processes, which torchrun starts, on CPU."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bnf.data.groups import DEV, write_groups
from bnf.parallel import launch as launching
from bnf.parallel.placement import Placement
from bnf.reference import cache
from bnf.reference.index import read_index
from bnf.reference.launch import ReferenceCall
from tests.integration.small_shards import SHARD_TOKENS, STOP
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.training import ignore

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def small_shards() -> Iterator[None]:
    """Here and in the processes; and one thread each: their number changes the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(cache, "_SHARD_TOKENS", SHARD_TOKENS)
        patch.setattr(launching, "WORKER", "tests.integration.small_shards")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups of several shards, and dev groups of one, whose rows two processes can't share evenly."""
    folder = tmp_path_factory.mktemp("many")
    write_groups(folder, random_groups(41))
    write_groups(folder / DEV, random_groups(5, seed=1))
    return folder


def call(workplace: Path, data: Path, output: Path, **placement: object) -> ReferenceCall:
    return ReferenceCall(
        workplace / "model",
        data,
        output,
        max_tokens_per_row=48,
        max_groups_per_row=None,
        share_prompts=True,
        bf16=False,
        kl_pairs=True,
        ches=True,
        placement=Placement(**placement),  # type: ignore[arg-type]
    )


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a cache, dev groups' among them."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def one(workplace: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process caches."""
    folder = tmp_path_factory.mktemp("one")
    call(workplace, data, folder).launch(ignore)
    return folder


# A pass without sharding is killed and goes on below.
@pytest.mark.parametrize("sharding", [pytest.param("none", marks=pytest.mark.nightly), "full"])
def test_processes_cache_the_bytes_that_one_does(workplace: Path, data: Path, one: Path, tmp_path: Path, sharding: str) -> None:
    reported: list[tuple[int, int]] = []
    pass_ = call(workplace, data, tmp_path, nproc_per_node=2, sharding=sharding)
    index = pass_.launch(lambda done, total, note: reported.append((done, total)))
    assert len(index.shards) >= 3
    assert content(tmp_path) == content(one)
    assert reported[-1] == (index.num_tokens, index.num_tokens)
    # A gathering that adds or compares zeros would give log-probabilities of 0.
    for values in map(load_file, tmp_path.rglob("*.safetensors")):
        assert all(tensor.lt(0).all() for name, tensor in values.items() if name.endswith("logps"))


def test_a_killed_pass_goes_on_at_the_first_missing_shard(workplace: Path, data: Path, one: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, threading, time\n"
        "from pathlib import Path\n"
        "from tests.integration.test_reference_processes import call, ignore, launching\n"
        "launching.WORKER = 'tests.integration.small_shards'\n"
        "def kill():\n"
        f"    while not Path({str(tmp_path / 'reference-00001.safetensors')!r}).exists():\n"
        "        time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "threading.Thread(target=kill, daemon=True).start()\n"
        f"call(Path({str(workplace)!r}), Path({str(data)!r}), Path({str(tmp_path)!r}), nproc_per_node=2).launch(ignore)\n"
    )
    environment = os.environ | {STOP: "reference-00001.safetensors"}
    process = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, env=environment)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "index.json").exists()
    shards = sorted(tmp_path.glob("reference-*.safetensors"))
    assert 2 <= len(shards) < len(read_index(one).shards)
    before = {shard.name: shard.stat().st_mtime_ns for shard in shards}
    notes: list[str] = []
    # In another number of processes: nothing depends on it.
    call(workplace, data, tmp_path).launch(lambda done, total, note: notes.append(note))
    assert "tokens, some cached" in notes
    assert {shard.name: shard.stat().st_mtime_ns for shard in shards} == before
    left = content(tmp_path)
    # What the killed launch said of itself.
    assert json.loads(left.pop("launch.json"))["launch"]["kind"] == "reference"
    assert left == content(one)


@pytest.mark.nightly
def test_what_a_process_raises_is_raised(workplace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_groups(tmp_path / "groups", random_groups(4)[:1])
    with pytest.raises(ValueError, match="groups must hold at least 2 different prompts"):
        call(workplace, tmp_path / "groups", tmp_path / "out", nproc_per_node=2).launch(ignore)
    assert "Traceback" not in capfd.readouterr().err
