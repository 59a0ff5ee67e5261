"""A separate Prefect server on Postgres, started as docker/compose.yaml starts it, and the commands on it by PREFECT_API_URL."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from flows.service.server import free_port
from tasks.keys import ROOT
from tests.e2e.conftest import Bnf
from tests.e2e.test_deployments import Server
from tests.e2e.tiny import Judge, judged_model, make_inputs
from tests.stub_server import StubServer

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

BIN = Path(sys.executable).parent
SERVICES = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
# Debian keeps Postgres's commands off the path.
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
START_TIMEOUT_S = 120


class Postgres:
    """A Postgres on loopback, with user and database as in compose.yaml; `password` is the file that has its password."""

    def __init__(self, folder: Path, password: Path, port: int, owner: dict[str, object]) -> None:
        self.folder, self.password, self.port, self._owner = folder, password, port, owner
        self.start()

    def start(self) -> None:
        options = ["-D", self.folder, "-p", str(self.port), "-h", "127.0.0.1", "-k", self.folder, "-F"]
        command, log = [POSTGRES / "postgres", *options], self.password.with_name("postgres.log")
        ready = [POSTGRES / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + START_TIMEOUT_S
        self._process = None
        while self._process is None or subprocess.run(ready, capture_output=True).returncode:
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            if self._process is None or self._process.poll() is not None:
                # Processes of one that has crashed may still be ending, and keep it from beginning.
                with log.open("ab") as output:
                    self._process = subprocess.Popen(command, stderr=output, **self._owner)
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; with SIGQUIT at once, as a crash does, and all connections break off."""
        self._process.send_signal(number)
        self._process.wait()

    def query(self, database: str, statement: str) -> str:
        user = SERVICES["postgres"]["environment"]["POSTGRES_USER"]
        command = [POSTGRES / "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", database, "-Atc", statement]
        environment = {**os.environ, "PGPASSWORD": self.password.read_text()}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.fixture
def postgres(tmp_path):
    if POSTGRES is None:
        pytest.skip("Postgres is not installed (Debian: postgresql)")
    folder, password = tmp_path / "database", tmp_path / "password"
    password.write_text(secrets.token_hex(8) + "/@:")
    folder.mkdir()
    owner = {}
    if os.getuid() == 0:
        # Postgres refuses to run as root.
        owner = {"user": "postgres", "group": "postgres", "extra_groups": []}
        for path in (folder, password):
            shutil.chown(path, "postgres", "postgres")
        for parent in (tmp_path, *tmp_path.parents[:2]):
            parent.chmod(0o711)
    user = SERVICES["postgres"]["environment"]["POSTGRES_USER"]
    create = [POSTGRES / "initdb", "-D", folder, "-U", user, "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
    subprocess.run(create, check=True, capture_output=True, **owner)
    password.chmod(0o644)
    # Nobody else takes the port while it is down.
    with free_port() as port:
        postgres = Postgres(folder, password, port, owner)
        postgres.query("postgres", f"create database {SERVICES['postgres']['environment']['POSTGRES_DB']}")
        yield postgres
        postgres.stop()


@pytest.fixture
def server(postgres, tmp_path):
    """The API's address of compose.yaml's server: its command and environment, through the image's entry point."""
    here = {
        "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
        "PREFECT_SERVER_DATABASE_PORT": str(postgres.port),
        "PREFECT_SERVER_DATABASE_PASSWORD_FILE": str(postgres.password),
    }
    assert here.keys() <= SERVICES["server"]["environment"].keys()
    home = tmp_path / "server"
    with free_port() as port:
        process = subprocess.Popen(
            [ROOT / "docker" / "entrypoint.sh", BIN / "prefect", *SERVICES["server"]["command"][1:], "--port", str(port)],
            env={**os.environ, **SERVICES["server"]["environment"], **here, "BNF_HOME": str(home), "PREFECT_HOME": str(home)},
            stdout=subprocess.DEVNULL,
        )
        api = f"http://127.0.0.1:{port}/api"
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert process.poll() is None and time.monotonic() < deadline
            try:
                urllib.request.urlopen(f"{api}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
    yield api
    process.terminate()
    process.wait()
    assert not list(home.glob("*.db"))


def test_deployments_and_runs_on_a_server_with_postgres(model, server, postgres, tmp_path):
    bnf = Bnf(tmp_path, PREFECT_API_URL=server)
    assert f"PREFECT_API_URL={server}" in bnf("deploy")
    run = bnf.json("run", "flows/recipes/pairs.yaml", "--only", "resolve")
    assert run["state"] == "completed"
    with urllib.request.urlopen(f"{server}/flow_runs/{run['flow_run_id']}") as answer:
        assert json.load(answer)["state"]["type"] == "COMPLETED"
    stored = postgres.query("prefect", "select name from deployment order by name")
    assert stored.split() == ["evaluation", "pipeline"]

    # What a container or a Kubernetes job does: the image's entry point and Prefect's command for one flow run.
    api = Server(server)
    recipe = {"name": "contained", "model_name_or_path": str(model)}
    flow_run = api.start("pipeline", recipe=recipe, only=["resolve"])
    here = {"PREFECT_HOME": str(tmp_path / "state" / "prefect"), "PYTHONSAFEPATH": "1"}
    subprocess.run(
        [ROOT / "docker" / "entrypoint.sh", BIN / "prefect", "flow-run", "execute", flow_run],
        cwd=tmp_path,
        env={**bnf.variables(), **here},
        check=True,
        capture_output=True,
    )
    assert api(f"/flow_runs/{flow_run}")["state"]["type"] == "COMPLETED"
    assert bnf.json("show", "contained")["state"] == "completed"
    # No server of the home's own was started.
    assert not (tmp_path / "state" / "prefect" / "server.json").exists()


@pytest.mark.parametrize("down_s", [0, 20])
def test_a_run_goes_on_while_postgres_is_restarted(model, server, postgres, tmp_path, down_s):
    """It crashes while a stage is at work. The stage ends and the next one begins while nobody can be told."""
    make_inputs(tmp_path)
    bnf, judge = Bnf(tmp_path, PREFECT_API_URL=server), Judge()
    judge.answers.clear()
    with StubServer(judge) as endpoint:
        process = bnf.process(*judged_model(tmp_path, endpoint), "--json")
        try:
            bnf.wait(process, lambda: endpoint.requests)
            postgres.stop(signal.SIGQUIT)
            judge.answers.set()
            time.sleep(down_s)
            postgres.start()
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 0, err
    shown = json.loads(out)
    assert shown["state"] == "completed" and {"judge/mt_bench", "report"} <= shown["tasks"].keys()
    with urllib.request.urlopen(f"{server}/flow_runs/{shown['flow_run_id']}") as answer:
        assert json.load(answer)["state"]["type"] == "COMPLETED", err
