"""Runs with a policy that can be loaded: the base model's own folder, or the same with a LoRA adapter merged into it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnf.model.digests import model_digest
from flows.recipe.config import make_recipe
from flows.runs.record import Run, start_run
from tasks.keys import Ingredients
from tasks.names import TaskName
from tasks.nodes import Node
from tasks.store import Artifact, Store

ABOUT = {"seconds": 1.0, "versions": {"python": "3.11", "torch": "2.13"}, "machine": {"cpu": "a processor"}}


def policy_run(
    home: Path,
    base: Path,
    *,
    policy: Path | None = None,
    adapter: Path | None = None,
    store: Store | None = None,
    task: str = "train",
    summary: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """A completed run that aligned `base`: its policy is a copy of `policy`, or of the base model."""
    data = home / "mine.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    given = {"name": "mine", "model_name_or_path": str(base), "data": {"source": "pairs", "path": str(data)}, "train": {}}
    run = start_run(home, make_recipe({**given, **changes}), "x")
    store = store or Store(home / "artifacts")
    found = _commit(store, "resolve", {}, "model.json", json.dumps({"path": str(base)}), model_path=str(base), of=base)
    run.add(Node("resolve", {}, role="base"), found, cached=False, seconds=1.0)
    prepared = _commit(store, "prepare", {"source0": "5" * 64}, "groups.jsonl", "{}")
    run.add(Node("prepare", {}), prepared, cached=False, seconds=1.0)
    made_of = Ingredients("train", {"task": task}, {"model": found.fingerprint}, {"bnf.objectives.bnf": "old"})
    work = store.work_folder("train", made_of.key())
    shutil.copytree(policy or base, work / "policy", ignore=shutil.ignore_patterns(".bnf"))
    if adapter is not None:
        shutil.copytree(adapter, work / "adapter_checkpoint")
    about = {**ABOUT, "model_folder": "policy"}
    digest = model_digest(work / "policy")
    trained = store.commit(made_of, work, content=("policy/*",), fingerprint=digest, about=about)
    store.publish(trained)
    run.add(Node("train", {}, round=TaskName.from_id(task).round), trained, cached=False, seconds=1.0)
    if summary is not None:
        (run.folder / "summary.json").write_text(json.dumps(summary))
    run.end("completed")
    return run


def _commit(
    store: Store, stage: str, inputs: dict[str, str], file: str, text: str, of: Path | None = None, **about: str
) -> Artifact:
    made_of = Ingredients(stage, {}, inputs, {})
    work = store.work_folder(stage, made_of.key())
    (work / file).write_text(text)
    fingerprint = None if of is None else model_digest(of)
    return store.commit(made_of, work, content=("*",), fingerprint=fingerprint, about={**ABOUT, **about})
