"""Runs of the real pipeline through its command line: real model, real vLLM, real Prefect, in a home of their own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from flows.service.server import free_port
from tasks.keys import ROOT

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
# The quick start with every stage, at a size for tests.
RECIPE = "flows/recipes/quickstart.yaml"
SMALL = (
    "sample.num_prompts=16",
    "sample.samples_per_prompt=6",
    "evaluation.max_new_tokens=24",
    "evaluation.benchmarks={number_comparison: {limit: 16}, gsm8k: {source: sample, limit: 3}}",
    "judge.benchmarks={arena_hard: {source: sample, limit: 2}}",
    "judge.max_new_tokens=16",
)
START_TIMEOUT_S = 120


class Bnf:
    """The command line on one home; of another checkout and with other variables where they are given."""

    def __init__(self, home: Path, checkout: Path = ROOT, **environment: str) -> None:
        self.home, self.checkout, self.environment = home, checkout, environment

    def __call__(self, *words: str, code: int = 0) -> str:
        """Standard output of `bnf WORDS`, after checking its exit code."""
        done = self.process(*words)
        out, err = done.communicate(timeout=600)
        assert done.returncode == code, f"bnf {' '.join(words)}: exit {done.returncode}\n{out}\n{err}"
        self.err = err
        return out

    def json(self, *words: str, code: int = 0) -> dict:
        return json.loads(self(*words, "--json", code=code))

    def process(self, *words: str) -> subprocess.Popen:
        command = [str(Path(sys.executable).parent / "bnf")]
        if self.checkout != ROOT:
            command = [sys.executable, "-P", "-m", "bnf"]
        return subprocess.Popen(
            [*command, *words],
            cwd=self.home,
            env=self.variables(),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As in a terminal, though a shell that runs the tests in the background has them ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait(self, process: subprocess.Popen, condition: Callable[[], bool], timeout_s: float = 300) -> None:
        """Wait for a condition of a run that goes on meanwhile; where it doesn't, fail with all that it said."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if process.poll() is not None or time.monotonic() > deadline:
                ended = process.poll()
                process.kill()
                out, err = process.communicate()
                how = f"still runs after {timeout_s:g} s" if ended is None else f"ended with {ended} too soon"
                pytest.fail(f"the run {how}\n{out}\n{err}\n{self.logs()}", pytrace=False)
            time.sleep(0.05)

    def logs(self, lines: int = 30) -> str:
        """The end of each log of the newest run's stages."""
        runs = sorted((self.home / "state" / "runs").glob("*/logs"), key=lambda folder: folder.stat().st_mtime)
        files = sorted(runs[-1].glob("*.log")) if runs else []
        return "\n".join(
            f"--- {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) for file in files
        )

    def variables(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.checkout), "BNF_HOME": str(self.home / "state"), **self.environment}

    def processes(self) -> list[str]:
        """Command lines of live processes that work on this home."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/cmdline", "rb") as command:
                    line = command.read().replace(b"\0", b" ").decode()
                    if str(self.home / "state").encode() in environ.read() and line:
                        found.append(line)
            except OSError:
                continue  # it ended meanwhile
        return found

    def wait_for_no_processes(self, timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while self.processes():
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.2)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """The home's own server stays up meanwhile, as for somebody who watches it: else every command starts and stops one."""
        process = self.process("ui")
        try:
            # It prints the address when the server answers.
            lines = [process.stdout.readline() for _ in range(2)]
            assert lines[1].startswith("http"), (lines, process.communicate())
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)

    def executed(self, run: str = "latest") -> set[str]:
        """The tasks that a run executed itself; the others came from the cache."""
        tasks = self.json("show", run)["tasks"]
        return {name for name, entry in tasks.items() if not entry["cached"]}


@contextlib.contextmanager
def prefect_server(folder: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """The API's address of a running Prefect server that belongs to no home."""
    prefect = str(Path(sys.executable).parent / "prefect")
    quiet = {"PREFECT_HOME": str(folder / "server"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    with (folder / "server.log").open("w") as log, free_port() as port:
        command = [prefect, "server", "start", "--host", host, "--port", str(port)]
        server = subprocess.Popen(command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_until_healthy(f"http://{host}:{port}/api", server)
            yield f"http://{host}:{port}/api"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=30)


def change_headers(api: str) -> dict[str, str]:
    """What a change of a server needs, as Prefect's UI sends it: a home's server wants a token."""
    client = str(uuid4())
    headers = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(f"{api}/csrf-token?client={client}", timeout=60) as answer:
            return {**headers, "Prefect-Csrf-Token": json.load(answer)["token"], "Prefect-Csrf-Client": client}
    except urllib.error.HTTPError:
        return headers


def _wait_until_healthy(api: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{api}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the Prefect server did not become healthy")


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server for homes of a module that is not about their own, each of which takes seconds to start."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as address:
        yield address


@pytest.fixture(scope="session")
def model() -> Path:
    if not MODEL.exists():
        pytest.skip(f"the demonstration model is not at {MODEL}; run `make env`")
    return MODEL


@pytest.fixture(scope="session")
def bnf(model, tmp_path_factory) -> Bnf:
    """The home of the quick start."""
    return Bnf(tmp_path_factory.mktemp("quickstart"))


@pytest.fixture(scope="session")
def first(bnf) -> dict:
    """The quick start's first run: everything is executed."""
    return bnf.json("run", RECIPE, *SMALL)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """A copy of the project elsewhere, to be edited."""
    copy = tmp_path_factory.mktemp("elsewhere") / "project"
    for folder in ("bnf", "data", "evaluation", "tasks", "flows"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "models").symlink_to(ROOT / "models")
    return copy
