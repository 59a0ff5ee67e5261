"""Runs of the real pipeline through its command line: real model, real vLLM, real Prefect, in a home of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.keys import ROOT

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"


class Bnf:
    """The command line on one home."""

    def __init__(self, home: Path) -> None:
        self.home = home

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
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "bnf"), *words],
            cwd=self.home,
            env={**os.environ, "BNF_HOME": str(self.home / "state")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def executed(self, run: str = "latest") -> set[str]:
        """The tasks that a run executed itself; the others came from the cache."""
        tasks = self.json("show", run)["tasks"]
        return {name for name, entry in tasks.items() if not entry["cached"]}


@pytest.fixture(scope="session")
def model() -> Path:
    if not MODEL.exists():
        pytest.skip(f"the demonstration model is not at {MODEL}; run `make env`")
    return MODEL
