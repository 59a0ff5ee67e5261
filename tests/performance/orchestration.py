"""What the orchestration itself costs: a fully cached run of eleven tasks, a plan, and a stage beyond its own work.

    python -m tests.performance.orchestration [--repeats 5] [--json]

One real run fills a new home; then the same command is timed with everything cached, without a Prefect server and against a running
one, and with the scoring forced. What `score` itself takes is timed apart, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.execute import machine
from tasks.keys import ROOT

WORDS = (
    *("flows/recipes/pairs.yaml", "train.max_steps=1", "evaluation.engine=transformers", "evaluation.max_new_tokens=8"),
    "evaluation.benchmarks={number_comparison: {limit: 2}}",
)
SCORE = """
import sys, time, pathlib, tempfile
started = time.perf_counter()
from evaluation.scoring.score import score_folder
with tempfile.TemporaryDirectory() as output:
    score_folder("number_comparison", pathlib.Path(sys.argv[1]), pathlib.Path(output), source="own", limit=2)
print(time.perf_counter() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        figures = measure(Path(home), options.repeats)
    if options.json:
        print(json.dumps({"machine": machine(), **figures}, indent=2))
        return
    overhead_s = figures.pop("overhead_of_a_stage_s")
    print(f"{machine()}\n\n| | wall, median (range) | CPU |\n|---|---|---|")
    for name, entry in figures.items():
        wall = f"{entry['median_s']:.2f} s ({entry['min_s']:.2f} … {entry['max_s']:.2f})"
        print(f"| {name.replace('_', ' ')} | {wall} | {entry['cpu_s']:.2f} s |")
    print(f"\na stage costs {overhead_s:.2f} s beyond its own work")


def measure(home: Path, repeats: int) -> dict[str, Any]:
    """Wall and CPU seconds of each kind of command."""
    first = json.loads(bnf(home, "run", *WORDS, "--json"))
    assert len(first["tasks"]) == 11, sorted(first["tasks"])

    def run() -> str:
        return bnf(home, "run", *WORDS)

    def plan() -> str:
        return bnf(home, "plan", *WORDS)

    def forced() -> str:
        return bnf(home, "run", *WORDS, "--refresh", "score")

    figures = {"plan": timed(plan, repeats), "cached_run_without_a_server": timed(run, repeats)}
    with subprocess.Popen(command("ui"), env=environment(home), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            while "Ctrl-C" not in server.stdout.readline():
                pass
            figures["cached_run_with_a_server"] = timed(run, repeats)
            figures["run_with_two_score_tasks_forced"] = timed(forced, repeats)
        finally:
            server.terminate()
    completions = first["tasks"]["generate/base/number_comparison"]["path"]
    own = timed(lambda: score(completions), repeats, lambda text: float(text))
    figures["score_by_itself"] = own
    difference = figures["run_with_two_score_tasks_forced"]["median_s"] - figures["cached_run_with_a_server"]["median_s"]
    figures["overhead_of_a_stage_s"] = difference / 2 - own["median_s"]
    return figures


def timed(act: Callable[[], str], repeats: int, seconds_of: Callable[[str], float] | None = None) -> dict[str, float]:
    """Wall seconds, by the clock or as the command itself says, and the CPU seconds of it and its children."""
    walls, cpus = [], []
    for _ in range(repeats):
        started_s, cpu_s = time.monotonic(), children_cpu_s()
        out = act()
        walls.append(seconds_of(out) if seconds_of else time.monotonic() - started_s)
        cpus.append(children_cpu_s() - cpu_s)
    return {"median_s": statistics.median(walls), "min_s": min(walls), "max_s": max(walls), "cpu_s": statistics.median(cpus)}


def children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def score(completions: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", SCORE, completions], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def bnf(home: Path, *words: str) -> str:
    done = subprocess.run(command(*words), env=environment(home), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(*words: str) -> list[str]:
    return [str(Path(sys.executable).parent / "bnf"), *words]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "BNF_HOME": str(home)}


if __name__ == "__main__":
    main()
