"""A reference of the training's own, for where the cached one doesn't fit the arithmetic of the process that trains.

The cache may come from another machine, whose processor sums in another order, or from a process that was given other kernels.
The step-0 assertion sees it. It is noted beside the training, which then fails; the next process to take the training up computes
the reference itself, of the same weights, and the assertion is made again. Where the cache says that another kind of device made
it, nothing has to fail first.
"""

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from bnf.model.digests import model_digest
from bnf.progress import Progress
from bnf.reference.cache import INDEX_FILE, cache_reference
from bnf.training.config import TrainConfig

_NOTE_FILE = "reference_mismatch.json"
_FOLDER = "own_reference"


class ReferenceMismatch(ValueError):
    """Policy and cached reference are the same weights, and yet their log-probabilities differ."""

    def __init__(self, message: str, mean_weight: float = math.nan) -> None:
        super().__init__(message)
        self.mean_weight = mean_weight


@dataclass(frozen=True)
class Mismatch:
    """Why the cached reference is not taken: the mean weight under it before the first step, or what another device did otherwise."""

    mean_weight: float | None = None
    elsewhere: str | None = None


def note_mismatch(output_dir: Path, mismatch: Mismatch) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    partial = (output_dir / _NOTE_FILE).with_suffix(".partial")
    partial.write_text(json.dumps(asdict(mismatch)) + "\n")
    os.replace(partial, output_dir / _NOTE_FILE)


def noted_mismatch(output_dir: Path) -> Mismatch | None:
    """What was found of the cached reference, where it was found not to fit."""
    file = output_dir / _NOTE_FILE
    return Mismatch(**json.loads(file.read_text())) if file.is_file() else None


def is_of(reference_dir: Path, model_dir: Path) -> bool:
    """Whether the cache was computed from these very weights."""
    return bool(json.loads((reference_dir / INDEX_FILE).read_text())["model"] == model_digest(model_dir))


def own_reference(config: TrainConfig, model_dir: Path, groups_dir: Path, output_dir: Path, progress: Progress) -> Path:
    """The folder of the training's own cache, computed where it is not there yet."""
    cache_reference(
        model_dir,
        groups_dir,
        output_dir / _FOLDER,
        **config.reference_settings(),
        progress=lambda done, total, note: progress(done, total, f"reference: {note}"),
    )
    return output_dir / _FOLDER


def drop_own_reference(output_dir: Path) -> None:
    """After the training's end nothing reads it."""
    shutil.rmtree(output_dir / _FOLDER, ignore_errors=True)
    (output_dir / _NOTE_FILE).unlink(missing_ok=True)
