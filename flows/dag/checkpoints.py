"""The policies of a training's way that are evaluated beside the last one: their tasks, and which of them a run kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bnf.training.choosing import step_of
from flows.dag.checks import Check
from flows.dag.on_policy import policy_node
from flows.errors import RecipeError
from flows.recipe.checkpoints import asked_checkpoints
from flows.recipe.config import Recipe
from flows.runs.home import open_store
from flows.runs.record import Run
from tasks.job import Settings
from tasks.names import TaskName
from tasks.nodes import Node
from tasks.store import Artifact

_KEPT = re.compile(r"policies/step-(\d+)/config\.json")


def checkpoint_nodes(recipe: Recipe, nodes: Sequence[Node]) -> list[Node]:
    """The tasks that evaluate each policy as the aligned model is evaluated by benchmarks with a rule; `nodes` are those of the others.

    Raises:
        RecipeError: every save is asked for, and their number isn't known.
    """
    found = []
    by_id = {node.id: node for node in nodes}
    for name in asked_checkpoints(recipe):
        settings = {"checkpoint": name, **_deciding(name, by_id[policy_node(recipe)], recipe)}
        policy = Node("checkpoint", settings, {"training": policy_node(recipe)}, role="aligned", checkpoint=name)
        found.append(policy)
        # An engine of its own, which ends before the next policy's starts.
        session = f"generate/{policy.which}"
        scored = []
        for benchmark in recipe.evaluation.benchmarks:
            generate = by_id[TaskName("generate", role="aligned", benchmark=benchmark).id]
            score = by_id[TaskName("score", role="aligned", benchmark=benchmark).id]
            generate = replace(generate, checkpoint=name, inputs={**generate.inputs, "model": policy.id}, session=session)
            found.append(generate)
            scored.append(replace(score, checkpoint=name, inputs={**score.inputs, "completions": generate.id}))
        found += scored
    return found


def _deciding(name: str, training: Node, recipe: Recipe) -> Settings:
    """The training's settings, where they decide which step a name stands for.

    A training's fingerprint is its last policy's, or the best one's. Two trainings may have that in common, and another step for `save1`,
    or, where they stopped early at different steps, for `step20`.
    """
    by_settings = name.startswith("save") or recipe.train_config().early_stopping_patience is not None
    return {"training": training.settings} if by_settings else {}


def kept_steps(home: Path, run: Run) -> list[int]:
    """The steps whose policies the last training of a run kept."""
    artifact = run.artifacts.get(policy_node(run.recipe))
    if artifact is None:
        return []
    files = open_store(home, verify=False).manifest(artifact)["files"]
    return sorted(int(match[1]) for file in files if (match := _KEPT.fullmatch(file)))


def of_kept(home: Path, recipe: Recipe, run: Run) -> Recipe:
    """The recipe of a run's evaluation with the steps in place of what was asked for: those of them that its training kept.

    Raises:
        RecipeError: it kept none of them.
    """
    asked = recipe.evaluation.checkpoints
    if asked is None:
        return recipe
    kept = kept_steps(home, run)
    steps = kept if asked == "all" else [step for step in kept if step in asked]
    if not steps:
        there = ", ".join(map(str, kept))
        raise RecipeError(
            f"evaluation.checkpoints must name policies that the training of {run.id} kept ({there or 'it kept none'}), got {asked}; "
            + (
                f"write evaluation.checkpoints=[{there}]"
                if kept
                else "run its recipe with evaluation.checkpoints=all, which trains again"
            )
        )
    return recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"checkpoints": steps})})


def kept_checks(home: Path, recipe: Recipe, run: Run) -> Iterator[Check]:
    """Which of the policies that an evaluation of a run asks for were kept, and which were not; `recipe` is as it was asked."""
    asked = recipe.evaluation.checkpoints
    if asked is None:
        return
    kept = kept_steps(home, run)
    wanted = _saves(run) if asked == "all" else list(asked)
    missing = [step for step in wanted if step not in kept]
    words = f"after steps {', '.join(map(str, kept))} of {run.id} policies were kept"
    if missing:
        words += (
            f"; not kept, and so not evaluated: {', '.join(map(str, missing))} (evaluation.checkpoints of `bnf run` keeps them)"
        )
    yield Check("checkpoints", None, words, is_cost=True)


def _saves(run: Run) -> list[int]:
    """The steps of all saves of a run's training before its end; none where that isn't known here."""
    artifact: Artifact | None = run.artifacts.get(policy_node(run.recipe))
    file = artifact.path / "train_summary.json" if artifact is not None else None
    if file is None or not file.is_file():
        return []
    steps, save_steps = int(json.loads(file.read_text())["steps"]), run.recipe.train_config().save_steps
    numbers = range(1, steps + 1)
    return sorted({step for number in numbers if (step := step_of(f"save{number}", save_steps, steps)) < steps})


def without_curve(recipe: Recipe) -> Iterator[Check]:
    """What of a recipe's evaluation sees the final policy alone, though others of the training's way are asked for."""
    if not recipe.evaluation.checkpoints:
        return
    judges = [] if recipe.judge is None else [f"judge.benchmarks.{name}" for name in recipe.judge.benchmarks]
    tasks = [f"evaluation.lm_eval.{name}" for name in recipe.evaluation.lm_eval]
    if judges or tasks:
        yield Check(
            "no curve over checkpoints",
            None,
            f"evaluation.checkpoints adds policies to evaluation.benchmarks alone; {', '.join([*judges, *tasks])} evaluate the base "
            "model and the final policy",
            is_said=True,
        )
