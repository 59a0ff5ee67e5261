"""Two replicas of a real engine sample what one samples, though one of them is killed on the way."""

import os
import subprocess
import sys

import pytest

from evaluation.engines import environment
from tests.integration.vllm_worker import MODEL, PROMPTS
from tests.unit.evaluation.test_replicas import ROOT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it"),
    pytest.mark.skipif(
        not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
        reason="two replicas need two cores, and Linux",
    ),
]


@pytest.mark.parametrize("name", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_two_replicas_sample_what_one_engine_samples(name, tmp_path):
    pytest.importorskip(f"{name}.version" if name == "vllm" else name)
    run = subprocess.run(
        [sys.executable, "-m", "tests.integration.replica_worker", name, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | environment(name) | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split()[-1] == "1" and "the others take over" in run.stderr
    one, two = ((tmp_path / folder / "samples.jsonl").read_text() for folder in ("one", "two"))
    assert one == two and one.count("\n") == len(PROMPTS)
