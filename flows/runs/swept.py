"""What a run of a sweep gave, as the comparison takes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnf.training.choosing import FIGURES
from evaluation.records import Record
from evaluation.report.dev_set import read_dev
from evaluation.report.swept import SweptRun
from flows.recipe.sections import Sample
from flows.runs.record import Run
from tasks.names import TaskName
from tasks.store import Artifact, Store

# The stages whose artifacts a comparison reads.
READ = ("score", "judge", "train", "analyze", "reference")
_OF_LAST_ROUND = frozenset(
    ("eval_accuracy", "eval_loss", "chosen_shift", "rejected_shift", "grad_norm", "grad_norm_max", "loss_std", "gini")
)


def dev_figures(run: Run, store: Store) -> dict[str, float]:
    """The dev figures of the policy that a run gives, by the names that `select.by` has for them; empty without a dev set."""
    trained = _last(run, "train")
    dev = read_dev(store.fetch(trained, ("*.safetensors",))) if trained is not None else None
    return {} if dev is None else of_policy(dev)


def of_policy(dev: Record) -> dict[str, float]:
    """The figures of the step that `keep_best` took, or else of the last one; without those that are no number any more."""
    evaluations = dev["evaluations"] or [{}]
    taken = next((entry for entry in evaluations if "kept" in dev and entry["step"] == dev["kept"]), evaluations[-1])
    found = {name: taken.get(figure.name) for name, figure in FIGURES.items()}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def swept_run(
    run: Run, store: Store, *, label: str, settings: Mapping[str, object], num_settings: int, is_chosen: bool
) -> SweptRun:
    """A run with the folders of its results. Of settings that were not chosen no score is looked at, though an earlier sweep has some."""
    recipe = run.recipe
    scores: dict[str, dict[str, Path]] = {}
    judges: dict[str, Path] = {}
    for task, artifact in run.artifacts.items():
        name = TaskName.from_id(task)
        if is_chosen and name.stage == "score" and name.checkpoint is None:
            scores.setdefault(str(name.benchmark), {})[str(name.role)] = store.fetch(artifact)
        elif is_chosen and name.stage == "judge":
            judges["/".join(filter(None, (name.benchmark, name.which)))] = store.fetch(artifact)
    # Shifts are measured from the base model where the recipe names another reference; the policy that a round starts from is neither.
    trained, shifts, reference = _last(run, "train"), _last(run, "analyze"), _last(run, "reference", None, "base")
    return SweptRun(
        run=run.id,
        name=label,
        settings=settings,
        objective=recipe.train_config().objective if recipe.train is not None else None,
        seed=recipe.seed,
        folder=run.folder,
        scores=scores,
        judges=judges,
        train=_fetched(trained, store, ("*.safetensors",)),
        shifts=_fetched(shifts, store),
        reference=_fetched(reference, store),
        dev=dev_figures(run, store),
        num_settings=num_settings,
        is_chosen=is_chosen,
        of_last_round=of_last_round(recipe.sample),
    )


def of_last_round(sample: Sample | None) -> frozenset[str]:
    """The figures of a study's columns that are of the last round alone: each round trains from its own start, on its own data and with a
    dev set of its own. The KL is too where each round has its own reference.
    """
    if sample is None or sample.rounds == 1:
        return frozenset()
    return _OF_LAST_ROUND | ({"kl"} if sample.reference == "each_round" else set())


def _last(run: Run, stage: str, *roles: str | None) -> Artifact | None:
    """The artifact of the stage's last task, of one of these roles where some are given: of several rounds, what led to the policy."""
    found = None
    for task, artifact in run.artifacts.items():
        if artifact.stage == stage and (not roles or TaskName.from_id(task).role in roles):
            found = artifact
    return found


def _fetched(artifact: Artifact | None, store: Store, leave_out: Sequence[str] = ()) -> Path | None:
    return None if artifact is None else store.fetch(artifact, leave_out)
