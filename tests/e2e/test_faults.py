"""What goes wrong around a run: somebody cancels it, a network is down for a while, the disk is full."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.e2e.conftest import Bnf, change_headers

pytestmark = [pytest.mark.e2e]

TRAINING = (
    *("run", "flows/recipes/pairs.yaml", "train.max_steps=50", "train.save_steps=1"),
    *("evaluation.benchmarks={}", "--only", "prepare,reference,train"),
)
TIMEOUT_S = 240


def start_training(bnf: Bnf) -> subprocess.Popen:
    """A run that is at its training, and has written a checkpoint."""
    process = bnf.process(*TRAINING)
    artifacts = bnf.home / "state" / "artifacts" / "train"
    bnf.wait(process, lambda: trains(bnf) and any(artifacts.glob("*.work/checkpoints/checkpoint-*")))
    return process


def trains(bnf: Bnf) -> bool:
    records = [json.loads(path.read_text()) for path in (bnf.home / "state" / "runs").glob("*/run.json")]
    return any(record["state"] == "running" and (record.get("working") or {}).get("stage") == "train" for record in records)


def test_a_cancelled_run_ends_within_seconds_with_all_its_processes(model, tmp_path):
    bnf = Bnf(tmp_path)
    process = start_training(bnf)
    address = json.loads((tmp_path / "state" / "prefect" / "server.json").read_text())["url"]
    run = bnf.json("runs")["runs"][0]["run"]
    flow_run = bnf.json("show", run)["flow_run_id"]
    started = time.monotonic()
    # As the UI does it.
    body = json.dumps({"state": {"type": "CANCELLING"}}).encode()
    request = urllib.request.Request(f"{address}/api/flow_runs/{flow_run}/set_state", body, change_headers(f"{address}/api"))
    urllib.request.urlopen(request).close()
    while any("tasks.worker" in line for line in bnf.processes()):
        assert time.monotonic() - started < 15
        time.sleep(0.1)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "the run was cancelled; the same command goes on" in err
    assert bnf.json("show", run)["state"] == "cancelled"
    bnf.wait_for_no_processes()

    # From the command line, and what the UI shows of both.
    process = start_training(bnf)
    assert bnf.json("cancel", "latest")["state"] == "cancelled"
    process.communicate(timeout=30)
    with subprocess.Popen([*ui(), "ui"], env=bnf.variables(), cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = [server.stdout.readline() for _ in range(2)][1].strip()
            body = json.dumps({"limit": 10}).encode()
            asked = urllib.request.Request(f"{address}/api/flow_runs/filter", body, change_headers(f"{address}/api"))
            with urllib.request.urlopen(asked) as answer:
                shown = json.load(answer)
        finally:
            server.terminate()
    assert [entry["state_type"] for entry in shown] == ["CANCELLED", "CANCELLED"]
    assert run in {entry["name"] for entry in shown}
    assert all({"pairs", "bnf", "SmolLM2-135M-Instruct"} <= set(entry["tags"]) for entry in shown)
    bnf("cancel", "latest", code=2)
    assert "RUN must be at work to be cancelled" in bnf.err


def ui() -> list[str]:
    return [sys.executable, "-m", "bnf"]


class Hub(BaseHTTPRequestHandler):
    """A hub that is busy twice and then knows no model."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(503 if self.asked <= 2 else 404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


def test_a_busy_hub_is_asked_again_and_an_absent_model_is_not(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        bnf = Bnf(
            tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=str(tmp_path / "hub"), HF_HUB_OFFLINE="0"
        )
        bnf("evaluate", "somebody/model", "evaluation.benchmarks={number_comparison: {limit: 2}}", code=1)
        server.shutdown()
    assert bnf.err.count("resolve-base: tried again after: model_name_or_path must be a folder or a hub id") >= 1
    assert "got 'somebody/model'" in bnf.err and "404" in bnf.err
    assert Hub.asked <= 6


def test_a_full_disk_fails_the_stage_with_the_space_it_needs_and_leaves_the_store_whole(model, tmp_path):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("a file system of our own needs user namespaces")
    bnf = Bnf(tmp_path)
    (tmp_path / "state" / "artifacts").mkdir(parents=True)
    words = " ".join(f"'{word}'" for word in (sys.executable, "-m", "bnf", *TRAINING, "train.max_steps=1"))
    # Room for the small stages, not for a checkpoint; a second disk for what they leave, to look at afterwards.
    script = f"mount -t tmpfs -o size=900m tmpfs state/artifacts && {words}; code=$?; cp -r state/artifacts kept; exit $code"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=tmp_path,
        env=bnf.variables(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1, done.stderr
    message = done.stderr[done.stderr.index("bnf: failed") :]
    assert "MiB free for train, got" in message and "free some" in message and "Traceback" not in message
    kept = {path.parent.name for path in (tmp_path / "kept").glob("*/*.json")}
    assert kept == {"resolve", "prepare", "reference"}
    # With room it goes on from what is complete.
    shutil.rmtree(tmp_path / "state" / "artifacts")
    shutil.move(tmp_path / "kept", tmp_path / "state" / "artifacts")
    planned = bnf.json(
        "plan", "flows/recipes/pairs.yaml", "evaluation.benchmarks={}", "train.max_steps=1", "train.save_steps=1"
    )
    assert {e["stage"] for e in planned["stages"] if e["cached"]} == {"resolve", "prepare", "reference"}


@pytest.mark.nightly
def test_a_run_whose_prefect_server_is_killed_goes_on_and_is_complete(model, tmp_path):
    """What shows a run ends neither the stage at work nor the run. It takes minutes: Prefect's client tries each call for one."""
    bnf = Bnf(tmp_path)
    process = start_training(bnf)
    kept = json.loads((tmp_path / "state" / "prefect" / "server.json").read_text())
    # The server ends with its keeper, and nobody starts it again.
    os.kill(kept["keeper"], signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert err.count("Prefect's server could not be told how far the run is") == 1
    run = bnf.json("runs")["runs"][0]["run"]
    shown = bnf.json("show", run)
    assert shown["state"] == "completed" and "train" in shown["tasks"]
    bnf.wait_for_no_processes()
