"""Folders of runs, as runs leave them: for tests of the commands that read them."""

from pathlib import Path

from flows.recipe.config import make_recipe
from flows.runs.record import Run, start_run
from tasks.keys import Ingredients
from tasks.nodes import Node
from tasks.store import Artifact, Store
from tests.unit.evaluation.report_folders import scored

BASE = {"model_name_or_path": "m", "data": {"source": "pairs", "path": "x.jsonl"}, "train": {}}


def make(home: Path, stage: str, fill: str) -> Artifact:
    """An artifact of a stage; of a score with the outcomes of its items."""
    store, made_of = Store(home / "artifacts"), Ingredients(stage, {"fill": fill}, {}, {})
    work = store.work_folder(stage, made_of.key())
    if stage == "score":
        for file in Path(scored(home / "scored", fill)[0]).iterdir():
            (work / file.name).write_bytes(file.read_bytes())
    else:
        (work / "policy").write_text(fill)
    return store.commit(made_of, work, content=("*",), fingerprint=None, about={})


def run_of(home: Path, name: str, number: int, *, scores: str | None = None, trained: bool = False, **changes) -> Run:
    """A run called `name`, the `number`th of the home."""
    run = start_run(home, make_recipe({**BASE, "name": name, **changes}), "x")
    run.record.started = f"2026-01-01T00:{number:02}:00+00:00"
    if trained:
        run.add(Node("train", {}), make(home, "train", "x"), cached=False, seconds=1.0)
    if scores is not None:
        node = Node("score", {}, role="aligned", benchmark="gsm8k")
        run.add(node, make(home, "score", scores), cached=False, seconds=1.0)
    run.end("completed" if scores else "failed")
    return run
