"""Training on two nodes: two torchruns on this machine, which meet over loopback. The second one is `python -m bnf.join`."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_parallel_training import SETTINGS, closeness
from tests.unit.bnf.training import run

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def two_nodes(**more: Any) -> dict[str, Any]:
    return SETTINGS | {"num_nodes": 2, "rdzv_endpoint": f"localhost:{free_port()}"} | more


@contextmanager
def other_node(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    node = subprocess.Popen(
        [sys.executable, "-m", "bnf.join", str(folder), *words],
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


@pytest.mark.parametrize("nproc_per_node", [1, 2])
def test_two_nodes_train_what_one_process_trains(workplace: Path, tmp_path: Path, nproc_per_node: int) -> None:
    run(workplace, tmp_path / "one", **SETTINGS)
    reported: list[str] = []
    with other_node(tmp_path / "two") as node:
        settings = two_nodes(nproc_per_node=nproc_per_node)
        run(workplace, tmp_path / "two", lambda done, total, note: reported.append(f"{done}/{total} {note}"), **settings)
        code, words = ended(node)
    assert code == 0, words
    assert "joined train in" in words and "as node 1 of 2" in words
    # The first node has the first process, which reports.
    assert any(note.startswith("4/4 steps, loss") for note in reported), reported
    closeness(tmp_path / "one", tmp_path / "two")
    # Nothing of the launch is left.
    assert not list((tmp_path / "two").glob("launch*"))
