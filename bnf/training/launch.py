"""Training in several processes, on one node or on several: `bnf.parallel.launch` starts them, each runs `bnf.training.worker`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bnf.parallel.launch import launch as launch_processes
from bnf.progress import Progress
from bnf.training.collapse import TrainingCollapsed
from bnf.training.config import TrainConfig
from bnf.training.leftovers import drop_leftovers
from bnf.training.own_reference import ReferenceMismatch, launch_cache_for
from bnf.training.preparation import Folders, prepare
from bnf.training.summary import TrainSummary, read_summary

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
    checkpoints: Sequence[str] = ()

    def to_json(self) -> dict[str, object]:
        """The call as launch.json holds it."""
        folders = {name: None if path is None else str(path) for name, path in asdict(self.folders).items()}
        return {
            "config": self.config.to_dict(),
            "folders": folders,
            "step0_check": self.step0_check,
            "checkpoints": list(self.checkpoints),
        }

    @classmethod
    def from_json(cls, text: str) -> "Call":
        """The call that a file's text holds."""
        found = json.loads(text)
        folders = Folders(**{name: value and Path(value) for name, value in found["folders"].items()})
        return cls(TrainConfig.from_dict(found["config"]), folders, found["step0_check"], found["checkpoints"])


def launch(
    config: TrainConfig, folders: Folders, *, step0_check: bool, progress: Progress, checkpoints: Sequence[str] = ()
) -> TrainSummary:
    """As `bnf.training.trainer.train`, in `nproc_per_node` processes on each of `num_nodes` nodes. These must see the folders under the
    same paths.

    Raises:
        ValueError, FileNotFoundError, ReferenceMismatch, TrainingCollapsed: as `train`; ValueError where the nodes have nowhere to meet.
        RuntimeError: a process failed otherwise (its traceback is on stderr), or a node did not come or went away.
    """
    prepared = prepare(config, folders, step0_check=step0_check, progress=progress, cache=launch_cache_for)
    if prepared.finished is not None:
        drop_leftovers(folders.output_dir)
        return prepared.finished
    folders = replace(folders, reference_dir=prepared.reference_dir, old_dir=prepared.old_dir, base_dir=prepared.base_dir)
    call = Call(config, folders, step0_check, checkpoints)
    launch_processes("train", call.to_json(), folders.output_dir, config.placement, REPORTED, progress)
    summary = read_summary(folders.output_dir)
    assert summary is not None
    return summary
