"""Replicas of an engine, as real processes: they share out prompts, and one that is killed loses nothing but its chunk's time."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnf.parallel.node_folders import same_path
from evaluation.engines._replica_process import Opening, installed, open_on_node
from evaluation.engines._replicas import _Alike

ROOT = Path(__file__).parents[3]
ECHO = """
import os
import signal
import time
from pathlib import Path

from evaluation.types import Generation

LIBRARY = "json"
PACKAGES = ("pyyaml",)
OPTIONS = frozenset({"num_replicas"})


def environment():
    return {}


class Echo:
    takes, supports_choices, version, max_model_len = "ids", True, "echo 1", 99

    def __init__(self, folder):
        self.folder, self.seed = Path(folder), None

    def generate(self, prompts, sampling, received=None):
        for index, (number,) in enumerate(prompts):
            time.sleep(0.005)
            text = f"{number} {os.getpid()}"
            if number == -1:
                raise ValueError("prompts must be echoed")
            if number == -4:
                raise {}["no message"]
            if number == -5:
                raise FileNotFoundError(2, "gone", "weights")
            if number == -2:
                text = f"{os.environ['OMP_NUM_THREADS']} {sorted(os.sched_getaffinity(0))}"
            if number == -7:
                time.sleep(60)
            if number == -3:
                text = str(self.seed)
            if sampling.seeds is not None:
                text = f"{number}/{sampling.seeds[index]} {os.getpid()}"
            if number == -8 or (number == -9 and not (self.folder / "killed").exists()):
                (self.folder / "killed").touch()
                if number == -9 and "BNF_REPLICA_FD" in os.environ:
                    # As it writes a reply.
                    os.write(int(os.environ["BNF_REPLICA_FD"]), b'{"index": 0, "fo')
                os.kill(os.getpid(), signal.SIGKILL)
            yield index, [Generation(text, [number], "stop", 1, 1)] * sampling.n

    def loglikelihoods(self, pairs):
        for index, (context, rest) in enumerate(pairs):
            yield index, (-float(sum(context) + sum(rest)), True)

    def reseed(self, seed):
        self.seed = seed

    def close(self):
        pass


def open(model):
    return Echo(model)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project with the engine `echo`."""
    root = tmp_path_factory.mktemp("checkout")
    for package in ("bnf", "evaluation"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "evaluation" / "engines" / "echo.py").write_text(ECHO)
    shutil.copy(ROOT / "tests" / "unit" / "evaluation" / "replicated_engine.py", root / "script.py")
    return root


def work(name, checkout, folder):
    run = subprocess.run(
        [sys.executable, "script.py", name, str(folder)],
        cwd=checkout,
        env={"PYTHONPATH": str(checkout), "PATH": ""},
        capture_output=True,
        timeout=60,
    )
    return run, [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are given to processes on Linux alone")
def test_replicas_share_out_prompts_as_one_engine(checkout, tmp_path):
    run, (found,) = work("shared", checkout, tmp_path)
    assert run.returncode == 0, run.stderr.decode()
    numbers = [str(number) for number in range(40)]
    assert found["texts"] == found["after"] == numbers and found["count"] == 40 and found["processes"] == 2
    # What is sampled in one call depends on its seed: one replica does it.
    assert found["sampled_by"] == 1 and found["seeds"] == ["7", "7"]
    # With seeds, a completion depends on its own prompt and seed alone; each replica is sent those of its prompts.
    assert found["own_seeds"] == [f"{number}/{100 + number}" for number in range(40)] and found["own_seeds_by"] == 2
    assert found["received"] == list(range(9)) and found["refused"] == "prompts must be echoed"
    # An error says what it is, and the log has where it was.
    assert found["unforeseen"] == ["RuntimeError: KeyError: 'no message'", "SentOSError: [Errno 2] gone: 'weights'"]
    assert b'raise {}["no message"]' in run.stderr
    assert found["likely"] == {"0": [-6.0, True], "1": [-15.0, True]} and found["about"] == ["echo 1", 99]
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    assert found["places"] == {"0": f"{half} {cores[:half]}", "1": f"{len(cores) - half} {cores[half:]}"}


def test_an_error_of_a_replica_has_its_kind_and_its_traceback(checkout, tmp_path):
    run, (found,) = work("failing", checkout, tmp_path)
    assert run.returncode == 0, run.stderr.decode()
    assert found == {"error": "RuntimeError: KeyError: 'no message'"}
    assert '{}["no message"]' in run.stderr.decode()


def test_the_others_take_over_from_a_replica_that_is_killed(checkout, tmp_path):
    run, (found,) = work("killed", checkout, tmp_path)
    assert run.returncode == 0, run.stderr.decode()
    expected = [str(number) for number in range(40)]
    expected[17] = "-9"
    assert found["texts"] == expected and found["count"] == 40 and found["alive"] == 1
    assert "of the engine ended (SIGKILL, often the kernel's out-of-memory killer); the others take over" in run.stderr.decode()
    assert found["firsts"] == [0, 8, 16, 24, 32] and found["chunks"] == 5
    # Where none is left, the call ends.
    assert found["alive_then"] == 0 and "SIGKILL" in found["ended"] and found["next"] == "every worker has ended"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone kills a process whose parent dies")
def test_replicas_end_with_the_process_that_started_them(checkout, tmp_path):
    run, (pids,) = work("orphaned", checkout, tmp_path)
    assert run.returncode == -9 and len(pids) == 2
    deadline = time.monotonic() + 10
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, pids))


def test_replicas_of_other_versions_are_refused():
    alike = _Alike()
    alike.require(0, {"version": "vllm 1", "max_model_len": 9})
    alike.require(1, {"version": "vllm 1", "max_model_len": 9})
    with pytest.raises(
        ValueError, match="must have the same version, got vllm 1 on replica 1 and vllm 2 on replica 3; install"
    ):
        alike.require(2, {"version": "vllm 2", "max_model_len": 9})


def test_a_node_without_the_models_folder_says_what_is_missing(tmp_path):
    with pytest.raises(
        ValueError, match=r"must be on every node under the same path, got .*nowhere, which isn't there; mount BNF_HOME"
    ):
        open_on_node((same_path, Opening("transformers", str(tmp_path / "nowhere"), {}), installed("transformers")))
    with pytest.raises(
        ValueError, match=r"engine of the run's machine, transformers 4, got transformers 5\S+ on .*; install the same"
    ):
        open_on_node((same_path, Opening("transformers", str(tmp_path), {}), "transformers 4"))


def runs(pid):
    stat = Path(f"/proc/{pid}/stat")
    # One that nobody waits for stays there as a zombie.
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(("total", "sizes"), [(160, [80, 80]), (7, [4, 3]), (1, [1]), (1100, [220] * 5)])
def test_chunks_hold_each_prompt_once_and_some_of_every_kind(total, sizes):
    from evaluation.engines._replicas import Replicas

    both = Replicas.__new__(Replicas)
    both.alive, both._batch = [None, None], 1
    chunks = both._chunks(list(range(total)))
    assert [len(chunk) for chunk in chunks] == sizes
    assert sorted(index for chunk in chunks for index in chunk) == list(range(total))
    # Of prompts in two halves of different kinds each chunk has as many of both.
    assert all(abs(sum(1 if index < total / 2 else -1 for index in chunk)) <= 1 for chunk in chunks)


def test_a_chunk_holds_whole_batches_of_the_engine():
    from evaluation.engines._replicas import Replicas

    both = Replicas.__new__(Replicas)
    both.alive, both._batch = [None, None], 16
    lengths = [(index * 37) % 101 for index in range(100)]
    by_length = sorted(range(100), key=lambda index: lengths[index])
    alone = [by_length[start : start + 16] for start in range(0, 100, 16)]
    chunks = both._chunks(lengths)
    # An engine that is given a chunk orders it by length again, and computes the batches that it would compute of all prompts.
    found = [chunk[start : start + 16] for chunk in chunks for start in range(0, len(chunk), 16)]
    assert len(chunks) == 2 and sorted(found) == sorted(alone)
