"""A reference of the training's own, for where the cached one doesn't fit the arithmetic of the process that trains.

The cache may come from another machine, whose processor sums in another order, or from a process that was given other kernels.
The step-0 assertion sees it. It is noted beside the training, which then fails; the next process to take the training up computes
the reference itself, of the same weights, and the assertion is made again.
"""

import json
import math
import shutil
from pathlib import Path

from bnf.config import TrainConfig
from bnf.digests import model_digest
from bnf.progress import Progress
from bnf.reference import INDEX_FILE, cache_reference

_NOTE_FILE = "reference_mismatch.json"
_FOLDER = "own_reference"


class ReferenceMismatch(ValueError):
    """Policy and cached reference are the same weights, and yet their log-probabilities differ."""

    def __init__(self, message: str, mean_weight: float = math.nan) -> None:
        super().__init__(message)
        self.mean_weight = mean_weight


def note_mismatch(output_dir: Path, mean_weight: float) -> None:
    (output_dir / _NOTE_FILE).write_text(json.dumps({"mean_weight": mean_weight}) + "\n")


def noted_mismatch(output_dir: Path) -> float | None:
    """The mean weight under the cached reference, where that was found not to fit."""
    file = output_dir / _NOTE_FILE
    return float(json.loads(file.read_text())["mean_weight"]) if file.is_file() else None


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
