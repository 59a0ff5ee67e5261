"""The plan of a run: everything that is decided before its first stage. `run`, `plan`, `doctor` and deployments all take it from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flows.dag import resources
from flows.dag.checkpoints import kept_checks, without_curve
from flows.dag.checks import Check
from flows.dag.graph import build
from flows.dag.preflight import preflight
from flows.dag.selection import MODELS, Options, Selection, evaluated_recipe, pinned_artifacts, select
from flows.recipe.config import Recipe
from flows.recipe.sections import GREEDY
from flows.runs.home import open_store
from flows.runs.record import find_run, last_artifacts
from tasks.nodes import Change, Forecast, Node, forecast
from tasks.store import Artifact, Store

_UNSAID = {f"settings.sampling.{name}": value for name, value in GREEDY.items()}


@dataclass(frozen=True)
class Plan:
    """A recipe as it is run, and what is known of the run.

    Args:
        home: the home that the run belongs to.
        options: what the person asked for besides the recipe.
        recipe: the recipe as it is run: of an evaluation of a run, that run's with the evaluation that was asked for.
        nodes: the tasks that the run needs, in the order of execution.
        selection: which of them may execute.
        store: where artifacts are looked up and put.
        pinned: artifacts that are taken as they are, by node id.
        forecasts: what each task would do, by node id.
        checks: what was looked at before the run, and what is wrong.
        changed: the recipe keys that the person set otherwise than the recipe's file.
    """

    home: Path
    options: Options
    recipe: Recipe
    nodes: Sequence[Node]
    selection: Selection
    store: Store
    pinned: Mapping[str, Artifact]
    forecasts: Mapping[str, Forecast]
    checks: Sequence[Check]
    changed: Mapping[str, object]


def make_plan(home: Path, recipe: Recipe, options: Options, changed: Mapping[str, object] | None = None) -> Plan:
    """Plan a run and check everything that can be checked before its first stage: names, files, the selection, the machine's room.

    Nothing is loaded but a few rows of the data, the items of local benchmarks, and what a hub or endpoint says in ten seconds.

    Raises:
        RecipeError: a name or file of the recipe is unknown, or the options contradict one another. What the checks find is not
            raised, but part of the plan: `require(plan.checks)` raises it.
    """
    asked, recipe = recipe, evaluated_recipe(home, recipe, options.evaluate_run)
    dag = build(recipe)
    selection = select(dag, options)
    nodes = [node for node in dag if node.id in selection.needed]
    store = open_store(home, verify=options.verify)
    pinned = pinned_artifacts(home, options.evaluate_run, selection, store) if options.evaluate_run else {}
    forecasts = _forecasts(nodes, store, last_artifacts(home, recipe), pinned, selection)
    checks = [Check("selection", problem) for problem in selection.problems(forecasts, pinned)]
    if found := resources.problem(recipe, nodes):
        checks.append(Check("resources", found))
    if options.evaluate_run:
        checks += kept_checks(home, asked, find_run(home, options.evaluate_run, MODELS))
    checks += [*preflight(recipe, list(forecasts.values()), home), *without_curve(recipe)]
    return Plan(home, options, recipe, nodes, selection, store, pinned, forecasts, checks, changed or {})


def _forecasts(
    nodes: Sequence[Node], store: Store, last: Mapping[str, Artifact], pinned: Mapping[str, Artifact], selection: Selection
) -> dict[str, Forecast]:
    """The forecast of every node. A folder without a config.json is not read: it may be any folder, whose checksums could take hours."""
    unread = {node.id for node in nodes if "model" in node.files and not (node.files["model"] / "config.json").exists()}
    for node in nodes:
        if not unread.isdisjoint(node.inputs.values()):
            unread.add(node.id)
    known = forecast([node for node in nodes if node.id not in unread], store, last, pinned, selection.keep)
    found = {node.id: known.get(node.id) or Forecast(node, None, False, None, []) for node in nodes}
    return {name: replace(entry, changed=_meant(entry.changed)) for name, entry in found.items()}


def _meant(changed: Sequence[Change]) -> list[Change]:
    """What differs, by what keys mean: where nothing says how completions are drawn, there is a greedy one of each item."""
    meant = []
    for change in changed:
        unsaid = _UNSAID.get(change["key"])
        old, new = (unsaid if change[side] is None else change[side] for side in ("old", "new"))
        if old != new:
            meant.append({**change, "old": old, "new": new})
    return meant
