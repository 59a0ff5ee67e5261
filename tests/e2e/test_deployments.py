"""Deployments through a real server and a real worker: run from the API, seen by `bnf runs`, cancelled, and gone with the worker."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from tests.e2e.conftest import Bnf, change_headers

pytestmark = [pytest.mark.e2e]

MODEL = "models/SmolLM2-135M-Instruct"
EVALUATION = {
    "name": "served",
    "model_name_or_path": MODEL,
    "evaluation": {"engine": "transformers", "benchmarks": {"number_comparison": {"limit": 2}}},
}
TRAINING = {
    "name": "long",
    "model_name_or_path": MODEL,
    "data": {"source": "pairs", "path": "data/samples/pairs.jsonl"},
    "train": {"max_steps": 1000, "max_tokens_per_row": 512, "learning_rate": 1e-5},
}
TIMEOUT_S = 400


class Server:
    """The API of a running home, as the UI uses it."""

    def __init__(self, api: str) -> None:
        self.api = api

    def __call__(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else change_headers(self.api)
        request = urllib.request.Request(self.api + path, data, headers)
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                # "SQLite is busy, again in 2 s", which Prefect's own clients do.
                if error.code != 503 or time.monotonic() > deadline:
                    raise
                time.sleep(2)

    def start(self, deployment: str, **parameters: object) -> str:
        """Start a run of a deployment; what is not given is the deployment's own."""
        found = self(f"/deployments/name/align/{deployment}")
        return self(f"/deployments/{found['id']}/create_flow_run", {"parameters": {**found["parameters"], **parameters}})["id"]

    def wait(self, flow_run: str, state: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while (found := self(f"/flow_runs/{flow_run}")["state"])["name"] != state:
            assert found["type"] not in ("FAILED", "CRASHED", "COMPLETED", "CANCELLED"), found
            assert time.monotonic() < deadline, found
            time.sleep(0.1)


def start_worker(bnf: Bnf) -> tuple[subprocess.Popen, Server]:
    process = bnf.process("worker")
    while not (found := re.match(r"UI (http\S+)", line := process.stdout.readline())):
        assert line, process.communicate()
    return process, Server(f"{found[1]}/api")


def stages_at_work(bnf: Bnf) -> list[str]:
    return [line for line in bnf.processes() if "tasks.worker" in line]


def wait_until(condition, timeout_s: float = TIMEOUT_S) -> float:
    """Seconds until the condition holds."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s
        time.sleep(0.05)
    return time.monotonic() - started_s


@pytest.fixture(scope="module")
def bnf(model, tmp_path_factory):
    bnf = Bnf(tmp_path_factory.mktemp("deployed"))
    assert "bnf worker" in bnf("deploy")
    return bnf


def test_a_deployment_runs_is_cached_cancelled_and_ends_with_its_worker(bnf):
    worker, server = start_worker(bnf)
    try:
        # The form's defaults are the quick start's recipe.
        assert server("/deployments/name/align/pipeline")["parameters"]["recipe"]["sample"]["num_prompts"] == 128

        server.wait(server.start("pipeline", recipe=EVALUATION), "Completed")
        assert {"resolve/base", "generate/base/number_comparison", "report"} <= bnf.executed()
        assert "number_comparison" in bnf("show", "latest")

        server.wait(server.start("evaluation", recipe=EVALUATION), "Completed")
        assert bnf.executed() == set()
        first, second = bnf.json("runs")["runs"]
        assert first["state"] == second["state"] == "completed" and first["run"] != second["run"]

        # What the command line refuses before it starts a run, a served one says before its first stage.
        refused = server.start("pipeline", recipe={**EVALUATION, "model_name_or_path": "models/none"})
        wait_until(lambda: server(f"/flow_runs/{refused}")["state"]["type"] == "FAILED")
        assert "models/none must exist" in server(f"/flow_runs/{refused}")["state"]["message"]
        assert len(bnf.json("runs")["runs"]) == 2

        # The same deployments on another pool, and back.
        for pool in ("bnf-docker", "bnf-process"):
            bnf("deploy", "--pool", pool)
            assert server("/deployments/name/align/evaluation")["work_pool_name"] == pool

        cancelled = server.start("pipeline", recipe=TRAINING, only=["prepare", "reference", "train"])
        wait_until(lambda: stages_at_work(bnf))
        server(f"/flow_runs/{cancelled}/set_state", {"state": {"type": "CANCELLING"}})
        assert wait_until(lambda: not stages_at_work(bnf)) < 10
        server.wait(cancelled, "Cancelled")
        assert bnf.json("runs")["runs"][0]["state"] in ("stopped", "cancelled")

        server.start("pipeline", recipe=TRAINING, only=["prepare", "reference", "train"])
        wait_until(lambda: stages_at_work(bnf))
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
        assert worker.returncode == 143
        bnf.wait_for_no_processes()
        assert bnf.json("runs")["runs"][0]["state"] in ("stopped", "cancelled")
    finally:
        worker.kill()
        worker.communicate()


def test_a_killed_worker_takes_its_flow_runs_along(bnf):
    worker, server = start_worker(bnf)
    server.start("pipeline", recipe=TRAINING, only=["prepare"])
    wait_until(lambda: stages_at_work(bnf))
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    bnf.wait_for_no_processes()
    assert bnf.json("runs")["runs"][0]["state"] == "crashed"
