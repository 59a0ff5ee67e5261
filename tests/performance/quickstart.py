"""The quick start with several seeds: what it gains on held-out problems, how long it takes, and what a cached run costs.

    python -m tests.performance.quickstart [--seeds 0 1 2] [--json]

Runs the real recipe in a new home, so nothing comes from a cache but what the seeds share (the base model's evaluation).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tasks.execute import machine
from tasks.keys import ROOT

RECIPE = "flows/recipes/quickstart.yaml"
TASK = "number_comparison"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        results = []
        for seed in options.seeds:
            results.append(measure(Path(home), seed))
            print(json.dumps(results[-1]), file=sys.stderr)
        first = options.seeds[0]
        started_s = time.monotonic()
        run(Path(home), first)
        cached_s = time.monotonic() - started_s
    if options.json:
        print(json.dumps({"machine": machine(), "runs": results, "cached_run_s": cached_s}, indent=2))
        return
    print(f"{machine()}\n")
    print("| seed | base | aligned | gain (95 % interval) | McNemar p | wall time |")
    print("|---|---|---|---|---|---|")
    for result in results:
        low, high = result["delta_ci"]
        print(
            f"| {result['seed']} | {result['base']:.1f} % | {result['aligned']:.1f} % | {result['delta']:+.1f} ({low:+.1f} … {high:+.1f}) "
            f"| {result['mcnemar_p']:.1g} | {result['wall_s']:.0f} s |"
        )
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in results[0]["stage_s"].items())
    print(f"\nstage times with seed {first}, in seconds: {stages}")
    print(f"again, everything cached: {cached_s:.1f} s")


def measure(home: Path, seed: int) -> dict[str, Any]:
    """One seed's result and times, from the run's own record."""
    started_s = time.monotonic()
    shown = run(home, seed)
    wall_s = time.monotonic() - started_s
    entry = shown["summary"]["benchmarks"][TASK]
    stage_s: dict[str, float] = {}
    for task, record in shown["tasks"].items():
        stage = task.split("/")[0]
        stage_s[stage] = round(stage_s.get(stage, 0.0) + record["seconds"], 1)
    return {
        "seed": seed,
        "base": entry["base"]["accuracy"],
        "aligned": entry["aligned"]["accuracy"],
        "delta": entry["delta"],
        "delta_ci": entry["delta_ci"],
        "mcnemar_p": entry["mcnemar_p"],
        "wall_s": wall_s,
        "stage_s": stage_s,
    }


def run(home: Path, seed: int) -> dict[str, Any]:
    """`bnf run` of the quick start with this seed, as JSON."""
    bnf = Path(sys.executable).parent / "bnf"
    done = subprocess.run(
        [bnf, "run", RECIPE, f"seed={seed}", "--json"],
        cwd=ROOT,
        env={**os.environ, "BNF_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
