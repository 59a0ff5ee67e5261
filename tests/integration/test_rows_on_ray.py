"""Reference passes and rewards on Ray's own workers: a cluster of two nodes on this machine, and Ray as one run starts it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from bnf.data.groups import DEV, write_groups
from bnf.parallel.placement import Placement
from bnf.reference import cache
from bnf.reference.index import reference_numerics
from bnf.reference.launch import ReferenceCall
from evaluation.judging.reward_model import RewardModel
from tests.integration.small_shards import SHARD_TOKENS
from tests.unit.bnf.helpers import random_groups
from tests.unit.bnf.training import ignore
from tests.unit.evaluation.test_reward_model import model_dir as reward_model_dir  # noqa: F401

pytestmark = [
    pytest.mark.integration,
    # Not imported here: a run sets Ray's variables before it imports it.
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="what a process has started is read from /proc"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def small_shards() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_SHARD_TOKENS", SHARD_TOKENS)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_groups(folder, random_groups(61))
    write_groups(folder / DEV, random_groups(5, seed=1))
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two nodes with a core each, to which this process is connected as to any cluster."""
    import ray
    from ray.cluster_utils import Cluster

    from bnf.parallel.ray_workers import START_SECONDS, connect

    # A socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        # This person may have the token of another cluster.
        patch.setenv("RAY_AUTH_TOKEN_PATH", f"{folder}/none")
        patch.setenv("RAY_gcs_server_port_wait_time_s", START_SECONDS)
        options = {"num_cpus": 1, "object_store_memory": 1 << 27}
        nodes = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
        nodes.add_node(**options)
        patch.setenv("RAY_ADDRESS", nodes.address)
        connect("auto")
        yield
        ray.shutdown()
        nodes.shutdown()


def call(workplace: Path, data: Path, output: Path, ray: str | None = "auto") -> ReferenceCall:
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
        placement=Placement(),
        ray=ray,
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def processes(folder: Path | None = None) -> dict[int, str]:
    """Ray's workers that descend from this process, by id; or all of Ray's processes that name a folder."""
    found, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    if folder is not None:
        return {pid: command for pid, command in found.items() if str(folder) in command and pid != os.getpid()}
    is_own = {pid for pid in found if parents.get(parents[pid]) == os.getpid()}
    return {pid: found[pid] for pid in is_own if re.match("ray::(WorkerActor|worker )", found[pid])}


def wait_until_ended(folder: Path | None = None) -> None:
    until_s = time.monotonic() + 120
    while left := processes(folder):
        assert time.monotonic() < until_s, left
        time.sleep(0.1)


def test_an_interrupt_ends_the_pass_and_another_one_goes_on_though_a_worker_is_killed(
    cluster: None, workplace: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    call(workplace, data, tmp_path / "one", ray=None).launch(ignore)
    on_ray = call(workplace, data, tmp_path / "ray")

    def interrupt(done: int, total: int, note: str) -> None:
        # Here and not from another thread: on a machine with much to do the pass would be over before that one comes to it.
        if note == "tokens":
            signal.raise_signal(signal.SIGINT)

    # In the background of a shell it is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            on_ray.launch(interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_until_ended()
    assert not (tmp_path / "ray" / "index.json").exists()
    assert (tmp_path / "ray" / DEV / "index.json").exists()

    killed: list[int] = []

    def kill(done: int, total: int, note: str) -> None:
        if note == "tokens" and not killed:
            killed.append(min(processes()))
            os.kill(killed[0], signal.SIGKILL)

    on_ray.launch(kill)
    assert killed and "others take over what it had" in capfd.readouterr().err
    assert content(tmp_path / "ray") == content(tmp_path / "one")
    wait_until_ended()


@pytest.mark.nightly
def test_workers_reward_as_one_model_does(cluster: None, reward_model_dir: Path) -> None:  # noqa: F811
    conversations = [
        [{"role": "user", "content": f"w{10 + n % 50}"}, {"role": "assistant", "content": " w21" * (1 + n * 7 % 40)}]
        for n in range(150)
    ]
    here = dict(RewardModel(reward_model_dir).rewards(conversations))
    assert {reward.finish_reason for reward in here.values()} == {"stop", "prompt_too_long"}
    there = RewardModel(reward_model_dir, num_replicas=2, ray="auto")
    found = list(there.rewards(conversations))
    there.close()
    assert len(found) == len(here) and dict(found) == here
    wait_until_ended()


@pytest.mark.nightly
def test_a_pass_that_is_killed_takes_its_ray_with_it_and_goes_on_without(workplace: Path, data: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.integration.test_rows_on_ray import SHARD_TOKENS, cache, call\n"
        f"cache._SHARD_TOKENS, output = SHARD_TOKENS, Path({str(tmp_path / 'ray')!r})\n"
        "def kill(done, total, note):\n"
        "    if (output / 'reference-00001.safetensors').exists():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"call(Path({str(workplace)!r}), Path({str(data)!r}), output, 'local').launch(kill)\n"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        process = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, env=own | {"RAY_TMPDIR": folder})
        assert process.returncode == -signal.SIGKILL
        wait_until_ended(Path(folder))
    before = {shard.name: shard.stat().st_mtime_ns for shard in (tmp_path / "ray").glob("*.safetensors")}
    assert len(before) >= 2 and not (tmp_path / "ray" / "index.json").exists()
    began_with = reference_numerics(tmp_path / "ray")
    assert began_with is not None and began_with.num_threads is not None
    try:
        torch.set_num_threads(began_with.num_threads)
        plain = replace(call(workplace, data, tmp_path / "one"), ray=None)
        plain.launch(ignore)
        replace(plain, output_dir=tmp_path / "ray").launch(ignore)
    finally:
        torch.set_num_threads(1)
    assert {name: (tmp_path / "ray" / name).stat().st_mtime_ns for name in before} == before
    assert content(tmp_path / "ray") == content(tmp_path / "one")
