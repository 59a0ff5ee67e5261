"""The child process in which stages run: it reads jobs from standard input, one JSON object a line, and reports on a pipe.

Memory of vLLM and of training is freed by the process's end. Several jobs in one process share what a stage keeps in its module:
all benchmarks of a model share one engine. A reference pass, its training and the analysis share what they import.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from bnf.failures import cause_of
from bnf.parallel.node_folders import NODE_FOLDER
from bnf.plugins import Kind, load
from bnf.process import die_with_parent, take_cores
from bnf.progress import Progress
from tasks.job import Job
from tasks.node_folders import ArtifactFolder
from tasks.stages import Stage

PROGRESS_INTERVAL_S = 0.5


def main() -> None:
    # os.fdopen first: whatever a library prints to standard output later can't be taken for a report.
    reports = os.fdopen(int(os.environ["BNF_REPORT_FD"]), "w", buffering=1)
    die_with_parent()
    take_cores()
    is_over = False

    def leave() -> None:
        if is_over:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    # The first to be registered is the last to be called: libraries have ended what they began. What is left is Python's own end, which
    # takes seconds to free piece by piece what ends with the process.
    atexit.register(leave)
    for line in sys.stdin:
        message = json.loads(line)
        # An artifact's work folder is <artifacts>/<stage>/<key>.work.
        NODE_FOLDER.set(ArtifactFolder(str(Path(message["output"]).parents[1])))
        try:
            package, _, stage = message["module"].rpartition(".")
            load(Kind("stage", package, Stage), stage).run(
                Job(
                    settings=message["settings"],
                    inputs={role: Path(path) for role, path in message["inputs"].items()},
                    output=Path(message["output"]),
                    progress=_progress(reports),
                    fingerprints=message["fingerprints"],
                    refresh=message["refresh"],
                )
            )
        except Exception as error:
            traceback.print_exc()
            report = {"event": "error", "kind": type(error).__name__, "message": str(error), "cause": cause_of(error)}
            _send(reports, report)
        else:
            peak = _device_peak()
            _free_memory()
            _send(reports, {"event": "done", "device_bytes": peak})
    is_over = True


def _free_memory() -> None:
    """What a job has left: a trainer and its model hold one another, torch keeps what it has freed on a GPU, and the C library what it
    has freed anywhere, once a training told it to (`bnf.model.allocator`).
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # Only glibc has it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _device_peak() -> int | None:
    """The most memory that torch has held on a GPU during the job, of this process alone; None where it computed on none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    peak: int = torch.cuda.max_memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    return peak or None


def _send(reports: TextIO, report: dict[str, Any]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    reports.write(json.dumps(report) + "\n")


def _progress(reports: TextIO) -> Progress:
    last_s = 0.0

    def progress(done: int, total: int, note: str) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= PROGRESS_INTERVAL_S or done >= total:
            last_s = now_s
            _send(reports, {"event": "progress", "done": done, "total": total, "note": note})

    return progress


if __name__ == "__main__":
    main()
