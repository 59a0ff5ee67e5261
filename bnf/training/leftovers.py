"""What a training needs on its way only: its checkpoints, the policies that it kept, and a reference of its own."""

import shutil
from pathlib import Path

from bnf.training.own_reference import drop_own_reference

CHECKPOINTS, KEPT = "checkpoints", "kept"


def drop_leftovers(output_dir: Path) -> None:
    """Removes what nothing reads after the training's end.

    It comes after train_summary.json, and again where a complete training is called: a kill in between would leave half a checkpoint,
    from which no training can go on.
    """
    for name in (CHECKPOINTS, KEPT):
        shutil.rmtree(output_dir / name, ignore_errors=True)
    drop_own_reference(output_dir)
