"""Training in several processes of one machine. torchrun starts them, each runs `bnf.training.worker`, the first one reports.

They end with the process that launched them, however that one ends.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bnf.process import module_command, module_environment
from bnf.progress import Progress
from bnf.training.collapse import TrainingCollapsed
from bnf.training.config import TrainConfig
from bnf.training.own_reference import ReferenceMismatch
from bnf.training.preparation import Folders, prepare
from bnf.training.summary import TrainSummary, read_summary

WORKER = "bnf.training.worker"
# How a line on stdout begins that reports progress.
MARK = "bnf.progress "
# Errors that a process reports by name and message; the message is all there is to know.
REPORTED: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "FileNotFoundError": FileNotFoundError,
    "ReferenceMismatch": ReferenceMismatch,
    "TrainingCollapsed": TrainingCollapsed,
}


@dataclass(frozen=True)
class Call:
    """What the processes are told: `launch.json`."""

    config: TrainConfig
    folders: Folders
    step0_check: bool

    def to_json(self) -> dict[str, object]:
        """The call as launch.json holds it."""
        folders = {name: None if path is None else str(path) for name, path in asdict(self.folders).items()}
        return {"config": self.config.to_dict(), "folders": folders, "step0_check": self.step0_check}

    @classmethod
    def from_json(cls, text: str) -> "Call":
        """The call that a file's text holds."""
        found = json.loads(text)
        folders = Folders(**{name: value and Path(value) for name, value in found["folders"].items()})
        return cls(TrainConfig.from_dict(found["config"]), folders, found["step0_check"])


def launch(config: TrainConfig, folders: Folders, *, step0_check: bool, progress: Progress) -> TrainSummary:
    """As `bnf.training.trainer.train`, in `nproc_per_node` processes.

    Raises:
        ValueError, FileNotFoundError, ReferenceMismatch, TrainingCollapsed: as `train`.
        RuntimeError: a process failed otherwise; its traceback is on stderr.
    """
    prepared = prepare(config, folders, step0_check=step0_check, progress=progress)
    if prepared.finished is not None:
        return prepared.finished
    _run(Call(config, replace(folders, reference_dir=prepared.reference_dir), step0_check), progress)
    summary = read_summary(folders.output_dir)
    assert summary is not None
    return summary


def _run(call: Call, progress: Progress) -> None:
    """Starts the processes, passes their progress on, and raises what one of them raised."""
    output_dir = call.folders.output_dir
    call_file = output_dir / "launch.json"
    for stale in output_dir.glob("launch*.json"):
        stale.unlink()
    call_file.write_text(json.dumps(call.to_json()))
    process = subprocess.Popen(
        module_command(WORKER, "start", str(call_file), str(os.getpid())),
        stdout=subprocess.PIPE,
        text=True,
        # For the processes that torchrun starts by itself what `-P` says.
        env=module_environment({"PYTHONSAFEPATH": "1"}),
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith(MARK):
                progress(*json.loads(line[len(MARK) :]))
            else:
                print(line, end="", file=sys.stderr)
        process.wait()
    finally:
        # Alive only where the progress was interrupted; the other processes end with the one that started them.
        process.kill()
        process.wait()
    errors = [json.loads(report.read_text()) for report in sorted(output_dir.glob("launch-error-*.json"))]
    # The error that says what is wrong comes before those of processes that lost their peer by it.
    for error in sorted(errors, key=lambda error: error["kind"] not in REPORTED):
        raise REPORTED.get(error["kind"], RuntimeError)(error["message"])
    if process.returncode != 0:
        raise RuntimeError(f"the training's processes must end with 0, got {process.returncode}; their output says why")
    call_file.unlink()
