"""Training on two nodes: two torchruns on this machine, which meet over loopback. The second one is `python -m bnf.join`."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bnf.train import run as train_alone
from bnf.training.config import TrainConfig
from tests.integration.test_parallel_training import SETTINGS, closeness
from tests.unit.bnf.test_nodes import free_port
from tests.unit.bnf.training import BASE, run, same, weights

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def two_nodes(**more: Any) -> dict[str, Any]:
    # None of the ports that homes' servers take: other tests start some meanwhile.
    return SETTINGS | {"num_nodes": 2, "rdzv_endpoint": f"localhost:{free_port()}"} | more


@contextmanager
def other_node(folder: Path, module: str = "bnf.join") -> Iterator[subprocess.Popen[str]]:
    node = subprocess.Popen(
        [sys.executable, "-m", module, str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
    )
    try:
        yield node
    finally:
        node.kill()
        node.communicate()


def ended(node: subprocess.Popen[str]) -> tuple[int, str]:
    _, words = node.communicate(timeout=120)
    return node.returncode, words


def alive(words: str) -> list[int]:
    """The processes whose command has these words, but for this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if words in command and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def gone(words: str) -> bool:
    until_s = time.monotonic() + 60
    while alive(words) and time.monotonic() < until_s:
        time.sleep(0.1)
    return not alive(words)


# Below they train it after one of them was killed.
@pytest.mark.nightly
def test_two_nodes_train_what_one_process_trains(workplace: Path, tmp_path: Path) -> None:
    run(workplace, tmp_path / "one", **SETTINGS)
    reported: list[str] = []
    with other_node(tmp_path / "two") as node:
        run(workplace, tmp_path / "two", lambda done, total, note: reported.append(f"{done}/{total} {note}"), **two_nodes())
        code, words = ended(node)
    assert code == 0, words
    assert "joined train in" in words and "as node 1 of 2" in words
    # The first node has the first process, which reports.
    assert any(note.startswith("4/4 steps, loss") for note in reported), reported
    closeness(tmp_path / "one", tmp_path / "two")
    # Nothing of the launch is left.
    assert not list((tmp_path / "two").glob("launch*"))


@pytest.mark.nightly
def test_two_nodes_of_two_processes_compute_what_one_node_of_four_does(workplace: Path, tmp_path: Path) -> None:
    """The reference pass too, which the other node joins on its way to the training."""

    def train(name: str, settings: dict[str, Any]) -> None:
        config = TrainConfig(**(BASE | settings))
        train_alone(config, workplace / "model", workplace / "groups", None, tmp_path / name)

    train("one", SETTINGS | {"nproc_per_node": 4})
    with other_node(tmp_path / "two") as node:
        train("two", two_nodes(nproc_per_node=2))
        code, words = ended(node)
    assert code == 0 and "joined reference in" in words and "joined train in" in words, words
    files = sorted(path.name for path in (tmp_path / "one" / "reference").iterdir())
    assert "index.json" in files and files == sorted(path.name for path in (tmp_path / "two" / "reference").iterdir())
    for file in files:
        assert (tmp_path / "one" / "reference" / file).read_bytes() == (tmp_path / "two" / "reference" / file).read_bytes()
    closeness(tmp_path / "one", tmp_path / "two")


def test_srun_starts_the_other_node_and_hybrid_shares_train_what_one_process_trains(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun is played by a script that leaves out its own options, and runs the command here."""
    # A batch of which one and four processes make the same rows.
    settings = SETTINGS | {"global_batch_size": 128}
    run(workplace, tmp_path / "one", **settings)
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nSLURMD_NODENAME=node2 exec "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    for name, value in {"JOB_ID": str(os.getpid()), "JOB_NODELIST": "localhost,node2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURMD_NODENAME", "localhost")
    run(workplace, tmp_path / "two", **settings, num_nodes=2, nproc_per_node=2, sharding="hybrid")
    closeness(tmp_path / "one", tmp_path / "two")
    assert not list((tmp_path / "two").glob("launch*"))


def killed(workplace: Path, output: Path, settings: dict[str, Any], step: int) -> subprocess.Popen[bytes]:
    """The first node, whose launcher is killed as soon as it reports a step."""
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from tests.unit.bnf.training import BASE, run, same, weights\n"
        "def kill(done, total, note):\n"
        f"    if done == {step} and 'steps' in note:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"run(Path({str(workplace)!r}), Path({str(output)!r}), kill, **{settings!r})\n"
    )
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=dict(os.environ))


@pytest.mark.nightly
def test_the_launcher_killed_ends_the_other_node_and_the_next_launch_resumes(workplace: Path, tmp_path: Path) -> None:
    settings = two_nodes(num_train_epochs=4, save_steps=3)
    with other_node(tmp_path / "whole"):
        run(workplace, tmp_path / "whole", **settings)
    with other_node(tmp_path / "killed") as node:
        launcher = killed(workplace, tmp_path / "killed", settings, 5)
        assert launcher.wait(timeout=240) == -signal.SIGKILL
        code, words = ended(node)
    assert code == 1 and "join: train failed; the first node says why" in words
    assert gone(str(tmp_path / "killed" / "launch.json"))
    # What the killed launch left is nobody's to join: the node waits for the launch that comes.
    with other_node(tmp_path / "killed") as node:
        assert run(workplace, tmp_path / "killed", **settings)["resumed_from_step"] == 3
        assert ended(node)[0] == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_the_other_node_killed_ends_the_launch_by_name_and_the_next_trains_what_one_process_does(
    workplace: Path, tmp_path: Path
) -> None:
    settings = two_nodes(num_train_epochs=4, save_steps=3)
    with other_node(tmp_path / "out") as node:

        def kill(done: int, total: int, note: str) -> None:
            if done == 5 and "steps" in note:
                node.kill()

        with pytest.raises(RuntimeError, match=rf"node 1 \({socket.gethostname()}\) did not say how it ended"):
            run(workplace, tmp_path / "out", kill, **settings)
    assert gone(str(tmp_path / "out" / "launch.json"))
    with other_node(tmp_path / "out") as node:
        reported: list[str] = []
        summary = run(
            workplace, tmp_path / "out", lambda done, total, note: reported.append(f"{done}/{total} {note}"), **settings
        )
        assert summary["resumed_from_step"] == 3
        code, words = ended(node)
    assert code == 0, words
    assert "joined train in" in words and "as node 1 of 2" in words
    # The first node has the first process, which reports.
    assert any(note.startswith("8/8 steps, loss") for note in reported), reported
    # Nothing of the launch is left.
    assert not list((tmp_path / "out").glob("launch*"))
    run(workplace, tmp_path / "one", **(SETTINGS | {"num_train_epochs": 4}))
    closeness(tmp_path / "one", tmp_path / "out")


def test_what_a_process_of_the_other_node_raises_is_raised(workplace: Path, tmp_path: Path) -> None:
    with other_node(tmp_path, module="tests.integration.failing_node") as node:
        with pytest.raises(FileNotFoundError, match=r"must be a folder with config\.json, got none on this node"):
            run(workplace, tmp_path, **two_nodes())
        assert ended(node)[0] == 1
