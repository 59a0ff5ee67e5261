"""Training in several processes of one machine: torchrun starts them, each calls `bnf.training.trainer.train`, the first one reports.

They end with the process that launched them, however that one ends.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bnf.training.collapse import TrainingCollapsed
from bnf.training.config import TrainConfig
from bnf.training.own_reference import ReferenceMismatch

_IS_WORKER = "BNF_TRAINING_PROCESS"
_PARENT = "BNF_TRAINING_PARENT"
_MARK = "bnf.progress "
_PR_SET_PDEATHSIG = 1
_KINDS: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "FileNotFoundError": FileNotFoundError,
    "ReferenceMismatch": ReferenceMismatch,
    "TrainingCollapsed": TrainingCollapsed,
}


def is_worker() -> bool:
    """Whether this process was started by `launch`."""
    return _IS_WORKER in os.environ


def launch(
    config: TrainConfig, arguments: Mapping[str, Any], output_dir: Path, progress: Callable[[int, int, str], None]
) -> None:
    """Calls `bnf.training.trainer.train` with `config` and `arguments` (paths as such, or plain values) in `nproc_per_node` processes.

    Raises:
        ValueError, FileNotFoundError, ReferenceMismatch, TrainingCollapsed: what a process raised.
        RuntimeError: where one failed otherwise; its traceback is on stderr.
    """
    call = output_dir / "launch.json"
    for stale in output_dir.glob("launch*.json"):
        stale.unlink()
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    paths = [name for name, value in arguments.items() if isinstance(value, Path)]
    call.write_text(json.dumps({"config": config.to_dict(), "arguments": plain, "paths": paths}))
    # This package, and nothing that bears a module's name where the person works.
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "bnf.training.launch", str(call)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", _PARENT: str(os.getpid())},
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith(_MARK):
                progress(*json.loads(line[len(_MARK) :]))
            else:
                print(line, end="", file=sys.stderr)
        process.wait()
    finally:
        # Nothing is left to kill but where the progress was interrupted; the processes end with the one that started them.
        process.kill()
        process.wait()
    errors = [json.loads(report.read_text()) for report in sorted(output_dir.glob("launch-error-*.json"))]
    # One that says what is wrong before those of the processes that lost their peer by it.
    for error in sorted(errors, key=lambda error: error["kind"] not in _KINDS):
        raise _KINDS.get(error["kind"], RuntimeError)(error["message"])
    if process.returncode != 0:
        raise RuntimeError(f"the training's processes must end with 0, got {process.returncode}; their output says why")
    call.unlink()


def _start(call: Path) -> None:
    """The process that watches over the others: torchrun."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    processes = json.loads(call.read_text())["config"]["nproc_per_node"]
    os.environ[_IS_WORKER] = "1"
    os.environ[_PARENT] = str(os.getpid())
    # A process that failed has failed for good: what the training can go on from lies in its checkpoints.
    try:
        main(["--standalone", f"--nproc-per-node={processes}", "--max-restarts=0", "-m", "bnf.training.launch", str(call)])
    except ChildFailedError:
        # The processes have left their reports, or their tracebacks above.
        sys.exit(1)


def _train(call: Path) -> None:
    """One of the training's processes."""
    import torch

    from bnf.training.trainer import train

    what = json.loads(call.read_text())
    rank = int(os.environ["RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))

    def progress(done: int, total: int, note: str) -> None:
        if rank == 0:
            print(_MARK + json.dumps([done, total, note]), flush=True)

    arguments: dict[str, Any] = {
        name: Path(value) if name in what["paths"] else value for name, value in what["arguments"].items()
    }
    try:
        train(TrainConfig.from_dict(what["config"]), **arguments, progress=progress)
    except Exception as error:
        report = {"kind": type(error).__name__, "message": str(error)}
        call.with_name(f"launch-error-{rank:05d}.json").write_text(json.dumps(report))
        if report["kind"] not in _KINDS:
            raise
        # What the message says is all there is to know.
        sys.exit(1)


def _die_with_parent() -> None:
    """Asks Linux to kill this process when its parent dies, even by kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[_PARENT]):
            raise SystemExit("the parent process ended before this one began")


if __name__ == "__main__":
    _die_with_parent()
    (_train if is_worker() else _start)(Path(sys.argv[1]))
