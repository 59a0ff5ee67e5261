"""The check of a GPU machine: its parts, one process each, within their time; and the JSON that they leave. `check.sh` starts it.

A part is a module in `tests/gpu/parts/`. It yields named checks, which assert and return figures. A part whose time is up is ended; what it
has finished counts, and the JSON says what was not done. Nothing here needs more than Python.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NEEDS = ("torch", "transformers", "accelerate", "safetensors", "peft")
TOTAL_S = 470.0
# Each part and its seconds, in the order in which they run. What a part leaves goes to those after it.
PARTS = {"environment": 30.0, "kernels": 120.0, "trainings": 90.0, "throughput": 90.0, "families": 80.0, "steps": 60.0}
# On a CPU importing torch alone may take as long.
REHEARSAL_S = 150.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check. 0: all that was done passed; 1: something failed; 2: packages are missing."""
    parser = argparse.ArgumentParser(description=__doc__, prog="tests/gpu/check.sh")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses it with stand-ins for kernels")
    parser.add_argument("--out", type=Path, help="the JSON's file; $OUT/gpu.json where OUT is set, else only stdout has it")
    parser.add_argument("--first", type=int, help="only so many checks of each part")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--total-s", type=float, default=TOTAL_S)
    options = parser.parse_args(arguments)
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"check.sh needs {', '.join(NEEDS)}, and {sys.executable} lacks {', '.join(missing)}; install them there",
            file=sys.stderr,
        )
        return 2
    on_cpu = options.device == "cpu"
    parts = {name: REHEARSAL_S if on_cpu else seconds for name, seconds in PARTS.items() if name in options.only}
    extra = [] if options.first is None else ["--first", str(options.first)]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if on_cpu:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        commands = {
            name: [sys.executable, "-W", "ignore", "-m", "tests.gpu.part", name, "--device", options.device, *extra]
            for name in parts
        }
        report = run(commands, parts, options.total_s, environment)
    report = {"device": options.device, "is_rehearsal": on_cpu, **report}
    out = options.out or (Path(os.environ["OUT"]) / "gpu.json" if os.environ.get("OUT") else None)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 1 if report["failed"] else 0


def run(
    commands: dict[str, list[str]], budgets: dict[str, float], total_s: float, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Runs the parts one after another, each within its seconds and those that were left over, all within `total_s`."""
    started_s = time.monotonic()
    parts: dict[str, dict[str, Any]] = {}
    allowed_s = 0.0
    for name, command in commands.items():
        allowed_s += budgets[name]
        left_s = min(allowed_s, total_s) - (time.monotonic() - started_s)
        parts[name] = _part(name, command, budgets[name], left_s, environment)
    checks = [check for part in parts.values() for check in part["checks"]]
    counted = {status: sum(check["status"] == status for check in checks) for status in ("passed", "failed", "skipped")}
    # A part that broke off for another reason than its time has failed, too.
    counted["failed"] += sum(
        part["status"] == "failed" and all(c["status"] != "failed" for c in part["checks"]) for part in parts.values()
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started_s, 1),
        **counted,
        "parts": parts,
    }


def _part(name: str, command: list[str], budget_s: float, left_s: float, environment: dict[str, str] | None) -> dict[str, Any]:
    part: dict[str, Any] = {
        "budget_s": budget_s,
        "seconds": 0.0,
        "status": "out of time",
        "why": "no time was left",
        "checks": [],
    }
    if left_s < 1:
        return part
    started_s = time.monotonic()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(
            command, stdout=said, stderr=complained, cwd=ROOT, env=environment, text=True, start_new_session=True
        )
        try:
            code = process.wait(timeout=left_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Its own processes, too: a compiler, or the others of a training.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        for line in said:
            if line.startswith("{") and line.endswith("}\n"):
                part["checks"].append(json.loads(line))
        complained.seek(0)
        stderr = complained.read()
    part["seconds"] = round(time.monotonic() - started_s, 1)
    failed = any(check["status"] == "failed" for check in part["checks"])
    if code is None:
        part |= {"status": "failed" if failed else "out of time", "why": f"it was ended after {left_s:.0f} s"}
    elif code:
        part |= {"status": "failed", "why": f"it ended with {code}: {stderr[-1500:]}"}
    else:
        part |= {"status": "failed" if failed else "passed", "why": None}
    for check in part["checks"]:
        print(
            f"{name}: {check['status']:7} {check['seconds']:6.1f} s  {check['name']}  {check['why'] or ''}"[:200],
            file=sys.stderr,
        )
    print(f"{name}: {part['status']} in {part['seconds']} s {part['why'] or ''}"[:400], file=sys.stderr, flush=True)
    return part
