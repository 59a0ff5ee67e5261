"""What is known of a recipe before it runs: its tasks, what of them is cached, and what is wrong.

`plan`, `doctor` and `run` all ask here, and so find the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.dag.checks import Check
from flows.dag.graph import build
from flows.dag.preflight import preflight, problems
from flows.dag.selection import Options, evaluated_recipe, pinned_artifacts, select
from flows.recipe.config import Recipe
from flows.runs.home import open_store
from flows.runs.record import last_artifacts
from tasks.nodes import Forecast, forecast


@dataclass(frozen=True)
class Examination:
    """The tasks that a run needs, by id, and the checks of them."""

    known: Mapping[str, Forecast]
    checks: list[Check]

    @property
    def problems(self) -> list[str]:
        return problems(self.checks)


def examine(home: Path, recipe: Recipe, options: Options) -> Examination:
    """Everything that can be known before the first stage: names, files, the selection, the machine's room.

    It is what a run does first, and so a plan finds what a run would refuse. Nothing is loaded but a few rows of the data, the items of
    local benchmarks, and what a hub or endpoint says in ten seconds.

    Raises:
        RecipeError: a name or file of the recipe is unknown, or the options contradict one another.
    """
    recipe = evaluated_recipe(home, recipe, options.evaluate_run)
    nodes = build(recipe)
    selection = select(nodes, options)
    store = open_store(home, verify=options.verify)
    pinned = pinned_artifacts(home, options.evaluate_run, selection, store) if options.evaluate_run else {}
    needed = [node for node in nodes if node.id in selection.needed]
    known = forecast(needed, store, last_artifacts(home, recipe), pinned, selection.keep)
    checks = [Check("selection", problem) for problem in selection.problems(known, pinned)]
    return Examination(known, [*checks, *preflight(recipe, list(known.values()), home)])
