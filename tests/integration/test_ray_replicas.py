"""Replicas on Ray, as real processes: what they share out, and what is left when one, a node, or all are killed."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from bnf.parallel.ray_probe import cluster_at
from tests.unit.evaluation.test_replicas import ECHO, ROOT

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores, and Linux"
    ),
]
NUMBERS = [str(number) for number in range(200)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the nodes of a cluster are sent, with the engine `echo`."""
    root = tmp_path_factory.mktemp("checkout")
    for package in ("bnf", "data", "evaluation", "tasks"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "evaluation" / "engines" / "echo.py").write_text(ECHO)
    shutil.copy(ROOT / "tests" / "integration" / "ray_worker.py", root / "script.py")
    return root


def work(name, checkout, folder):
    # Cores are held in the temporary folder: another test's workers are to hold none of these. Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="bnf", ignore_cleanup_errors=True) as temporary:
        run = subprocess.run(
            [sys.executable, "script.py", name, str(folder)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "BNF_HOME": str(folder), "TMPDIR": temporary},
            capture_output=True,
            timeout=200,
        )
    assert b"{" in run.stdout, run.stderr.decode()[-3000:]
    return run, json.loads(next(line for line in run.stdout.splitlines() if line.startswith(b"{")))


def left_over(folder):
    """Processes that were started by one with the home `folder`."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/cmdline", "rb") as command:
                if f"BNF_HOME={folder}\0".encode() in environ.read() and (line := command.read()):
                    found.append(line)
        except OSError:
            continue  # it has ended meanwhile
    return found


def test_workers_of_this_machine_share_out_and_one_that_is_killed_loses_nothing(checkout, tmp_path):
    run, found = work("local", checkout, tmp_path)
    said = run.stderr.decode()
    assert found["texts"] == NUMBERS and found["count"] == 200 and found["processes"] == 2, said[-3000:]
    assert found["about"] == ["echo 1", 99] and found["likely"] == {"0": [-6.0, True], "1": [-15.0, True]}
    # Each on one core, and on another one.
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 2:
        assert sorted(found["places"]) == [f"1 [{core}]" for core in cores]
    assert found["refused"] == "ValueError: prompts must be echoed"

    assert found["killed"] == [*NUMBERS[:17], "-9", *NUMBERS[18:]] and found["killed_count"] == 200 and found["alive"] == 2
    assert "ended (its process or its node is gone); the others take over what it had" in said
    first, second, third = (texts for _, texts in found["sampled"])
    assert first == ["100", "100"] and second[1] == "101" and third == ["102", "102"] and found["seed"] == "7"
    assert found["too_many"] == f"ValueError: num_replicas must be at most {len(cores)}, this machine's cores, got 99; lower it"

    # It was killed with -9 at the end, while both worked.
    assert run.returncode == -9
    # The workers are gone at once. Two of Ray's own processes may try for a minute to reach the others first.
    deadline = time.monotonic() + 150
    while left_over(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left_over(tmp_path)


@pytest.mark.parametrize("address", ["ray://127.0.0.1:9", "auto"])
def test_an_address_where_nothing_listens_is_refused_in_seconds(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(
        ValueError, match=rf"ray.address must be that of a cluster that runs, got {address} \(.*refused\); start one with"
    ) as refused:
        cluster_at(address)
    # Where nobody remembers the variable, nothing else says why `auto` looks there.
    assert ("RAY_ADDRESS says 127.0.0.1:9" in str(refused.value)) == (address == "auto")
    assert str(refused.value).endswith("or set RAY_AUTH_MODE=token where that cluster asks for one") == (address == "auto")


def test_a_node_that_is_killed_costs_its_chunk_alone(checkout, tmp_path):
    run, found = work("nodes", checkout, tmp_path)
    assert run.returncode == 0, run.stderr.decode()[-3000:]
    assert found["processes_before"] == found["processes"] == 2 and found["num_nodes"] == 2
    assert found["texts"] == 25 * NUMBERS and found["count"] == 5000 and found["after"] == NUMBERS
    assert "the others take over what it had" in run.stderr.decode()
