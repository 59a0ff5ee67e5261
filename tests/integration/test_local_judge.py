"""A policy and a judge in vLLM, killed -9 in the middle of the games and started again: no game is lost, none is judged twice."""

import json
import os
import subprocess
import sys

import pytest

from evaluation.engines import environment
from tests.integration.test_vllm_engine import MODEL, ROOT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.vllm,
    pytest.mark.nightly,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the demonstration model is not there; make env fetches it"),
]


def work(name, folder):
    command = [sys.executable, "-m", "tests.integration.judge_worker", name, str(folder)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment("vllm"), capture_output=True, text=True, timeout=300)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_local_judge_goes_on_after_a_kill(tmp_path):
    pytest.importorskip("vllm.version")
    died = work("killed", tmp_path)
    assert died.returncode == -9, died.stderr[-3000:]
    before = lines(tmp_path / "calls.jsonl")
    assert 1 <= len(before) < 12
    ended = work("resumed", tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    calls = lines(tmp_path / "calls.jsonl")
    assert calls[: len(before)] == before and len({call["key"] for call in calls}) == len(calls)
    summary = json.loads((tmp_path / "choice" / "summary.json").read_text())
    result = summary["models"]["policy"]
    assert result["n_games"] == 12 and result["n_null"] == 0 and not result["partial"]
    assert summary["cost"]["num_requests"] == 12 and summary["cost"]["usd"] is None
    # Twelve games and, by the letters, twelve more.
    assert len(calls) == 24
    assert not result["trusted"] and "demonstration" in result["untrusted_reason"]
    assert {game["reply"] for game in lines(tmp_path / "choice" / "games.jsonl")} <= {
        f"[[{label}]]" for label in ("A>>B", "A>B", "A=B", "B>A", "B>>A")
    }
    letters = json.loads((tmp_path / "logprobs" / "summary.json").read_text())["models"]["policy"]
    assert letters["n_null"] == 0 and 0 < letters["letter_mass"] <= 1
