"""Stopping a run, politely and not: nothing is left over, its state is told, and the next run goes on to the same policy."""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from tasks.keys import ROOT
from tests.e2e.conftest import Bnf

PAIRS = ROOT / "data" / "samples" / "pairs.jsonl"
pytestmark = [pytest.mark.e2e]

STOPPED = r"bnf: stopped by {by} in train \(\d of 3 steps\)"
# Few rows, so that most of what is computed is the training.
WORDS = (
    *("run", "flows/recipes/pairs.yaml", "data.path=mine.jsonl", "train.max_steps=3", "train.save_steps=1"),
    *("train.max_tokens_per_row=512", "evaluation.benchmarks={}", "--only", "prepare,reference,train"),
)


def stop_while_training(bnf: Bnf, number: int) -> int:
    """Start the run, send the signal once it has written a checkpoint, and return the exit code; what it said is `bnf.err`."""
    write_pairs(bnf)
    before = checkpoints(bnf)
    process = bnf.process(*WORDS)
    bnf.wait(process, lambda: not checkpoints(bnf) <= before)
    process.send_signal(number)
    _, bnf.err = process.communicate(timeout=60)
    return process.returncode


def write_pairs(bnf: Bnf) -> None:
    lines = PAIRS.read_text(encoding="utf-8").splitlines(keepends=True)
    (bnf.home / "mine.jsonl").write_text("".join(lines[:32]), encoding="utf-8")


def checkpoints(bnf: Bnf) -> set[str]:
    return {path.name for path in (bnf.home / "state" / "artifacts" / "train").glob("*.work/checkpoints/checkpoint-*")}


def weights(bnf: Bnf) -> str:
    tasks = bnf.json("show", "latest")["tasks"]
    return tasks["train"]["fingerprint"]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> Bnf:
    """The home of a run that nothing stopped."""
    bnf = Bnf(tmp_path_factory.mktemp("whole"))
    write_pairs(bnf)
    bnf(*WORDS)
    return bnf


@pytest.fixture(scope="module")
def before_training(whole, tmp_path_factory) -> Path:
    """The artifacts that its training began with."""
    folder = tmp_path_factory.mktemp("before") / "artifacts"
    for stage in ("resolve", "prepare", "reference"):
        shutil.copytree(whole.home / "state" / "artifacts" / stage, folder / stage, symlinks=True)
    return folder


@pytest.fixture
def prepared(before_training, tmp_path) -> Bnf:
    """A home of its own where nothing is left to do but the training."""
    shutil.copytree(before_training, tmp_path / "state" / "artifacts", symlinks=True)
    return Bnf(tmp_path)


def test_stopped_and_killed_runs_go_on_to_the_policy_of_one_that_was_not(whole, prepared):
    bnf = prepared
    assert stop_while_training(bnf, signal.SIGTERM) == 143
    assert re.search(STOPPED.format(by="SIGTERM"), bnf.err) and "Traceback" not in bnf.err
    bnf.wait_for_no_processes()
    assert bnf.json("runs")["runs"][0]["state"] == "stopped"

    assert stop_while_training(bnf, signal.SIGKILL) == -9
    bnf.wait_for_no_processes()
    assert bnf.json("runs")["runs"][0]["state"] == "crashed"

    bnf(*WORDS)
    assert bnf.executed() == {"train"}
    assert weights(bnf) == weights(whole)
    assert {run["state"] for run in bnf.json("runs")["runs"]} == {"stopped", "crashed", "completed"}


def test_a_reference_of_other_arithmetic_is_replaced_by_the_trainings_own(before_training, whole):
    """As from another machine's processor: the same weights, rows and key, and values that are off in their last digits."""
    # What other tests begin with has been copied by now.
    before = weights(whole)
    shard = next((whole.home / "state" / "artifacts" / "reference").glob("*/reference-00000.safetensors"))
    with safe_open(shard, framework="pt") as file:
        metadata = file.metadata()
        values = {name: file.get_tensor(name) * 1.001 for name in file.keys()}  # noqa: SIM118
    save_file(values, shard, metadata=metadata)
    whole(*WORDS, "--refresh", "train")
    assert "32 rows: 32 kept; 32 groups; each row in " in whole.err, "what became of the data is said, cached or not"
    assert "started again, training computes the reference itself" in whole.err
    assert whole.executed() == {"train"} and weights(whole) == before


def test_ctrl_c_in_a_terminal_says_what_was_stopped_and_ends_with_130(prepared, tmp_path):
    bnf = prepared
    write_pairs(bnf)
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "bnf"), *WORDS],
        **{"cwd": tmp_path, "env": {**bnf.variables(), "COLUMNS": "200"}, "start_new_session": True},
        **{"stdin": end, "stdout": end, "stderr": end},
        # The terminal's keys are this session's.
        preexec_fn=lambda: (signal.signal(signal.SIGINT, signal.SIG_DFL), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(end)
    shown: list[bytes] = []
    reader = threading.Thread(target=read_all, args=(terminal, shown))
    reader.start()
    deadline = time.monotonic() + 300
    while not checkpoints(bnf):
        assert process.poll() is None and time.monotonic() < deadline, b"".join(shown).decode()
        time.sleep(0.05)
    os.write(terminal, b"\x03")
    assert process.wait(timeout=60) == 130
    reader.join(timeout=10)
    text = b"".join(shown).decode()
    assert re.search(STOPPED.format(by="Ctrl-C"), text) and "from the cache" not in text and "Traceback" not in text
    bnf.wait_for_no_processes()


def read_all(terminal: int, shown: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the other side is closed: the command has ended
        while data := os.read(terminal, 1 << 16):
            shown.append(data)
