"""A trial of a training: its first steps on given groups, in a process of its own, which memory may end.

    python -m bnf.training.trial CALL

CALL is trial.json, which `bnf.training.budget` writes. The process writes outcome.json beside it, where it comes to that: whether the
steps fitted, and why not. It writes no policy. Nothing imports this module.
"""

import json
import sys
from pathlib import Path

from bnf.files import write_json
from bnf.process import die_with_parent

# What torch and CUDA say when memory ends, in whatever class of error, and what is said of a process that the system killed for it.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "outofmemory", "alloc_failed", "sigkill")


class _Enough(Exception):
    """The last step of the trial is done."""


def main(arguments: list[str]) -> None:
    """Runs the trial."""
    die_with_parent()
    call_file = Path(arguments[0])
    call = json.loads(call_file.read_text())
    try:
        _train(call, call_file.parent)
        outcome: dict[str, object] = {"fits": True}
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if not isinstance(error, MemoryError) and not is_out_of_memory(said):
            raise
        outcome = {"fits": False, "why": said}
    write_json(call_file.with_name("outcome.json"), outcome)


def is_out_of_memory(said: str) -> bool:
    """Whether memory ended a trial, by the name and the words of its error."""
    return any(words in said.lower() for words in _OUT_OF_MEMORY)


def _train(call: dict[str, object], folder: Path) -> None:
    from bnf.objectives import load_objective
    from bnf.training.config import TrainConfig
    from bnf.training.launch import launch
    from bnf.training.own_reference import launch_cache_for
    from bnf.training.preparation import Folders
    from bnf.training.trainer import train

    values = call["config"]
    assert isinstance(values, dict)
    config, model_dir = TrainConfig.from_dict(values), Path(str(call["model_dir"]))
    groups_dir, reference_dir = folder / "groups", None

    def progress(done: int, total: int, note: str) -> None:
        if done >= total:
            raise _Enough

    if load_objective(config.objective, config.objective_options).needs_cache:
        reference_dir = folder / "reference"
        launch_cache_for(config, model_dir, groups_dir, reference_dir, lambda *_: None)
    begin = launch if config.is_launched else train
    try:
        begin(config, Folders(model_dir, groups_dir, reference_dir, folder / "output"), step0_check=False, progress=progress)
    except _Enough:
        # Before the policy would be written.
        return


if __name__ == "__main__":
    main(sys.argv[1:])
