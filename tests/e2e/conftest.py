"""Runs of the real pipeline through its command line: real model, real vLLM, real Prefect, in a home of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

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

    def executed(self, run: str = "latest") -> set[str]:
        """The tasks that a run executed itself; the others came from the cache."""
        tasks = self.json("show", run)["tasks"]
        return {name for name, entry in tasks.items() if not entry["cached"]}


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
