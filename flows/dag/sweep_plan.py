"""The plan of a sweep: the plan of every run, what they share, and how many may be at work at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from flows.dag.choosing import check_choice
from flows.dag.on_policy import policy_node
from flows.dag.plan import Plan, make_plan
from flows.dag.points import Point, Tell, in_words, make_points
from flows.dag.preflight import HOME, problems
from flows.dag.resources import shared_devices
from flows.dag.selection import Options
from flows.dag.sharing import shared_first, work_of
from flows.errors import RecipeError
from flows.recipe.sweep_file import Sweep
from flows.runs.record import Run, all_runs
from tasks.nodes import ancestors
from tasks.resources import num_devices
from tasks.stages import in_order


@dataclass(frozen=True)
class SweepPlan:
    """A sweep as it is run.

    Attributes:
        points: its runs in the order of the file.
        plans: the plan of each, evaluation included.
        works: what each computes, as `work_of` gives it.
        order: the places of the runs in the order in which they begin.
        complete: the names of the runs that are complete already. They need nothing, whatever the checks find.
    """

    home: Path
    sweep: Sweep
    points: Sequence[Point]
    plans: Sequence[Plan]
    works: Sequence[Mapping[str, str]]
    order: Sequence[int]
    complete: Set[str]

    @property
    def in_order(self) -> list[tuple[Point, Plan]]:
        return [(self.points[place], self.plans[place]) for place in self.order]

    @property
    def all_refused(self) -> bool:
        """Whether no run is complete, and none can be begun."""
        return not self.complete and all(problems(plan.checks) for plan in self.plans)

    def problems(self, *, without_home: bool = False) -> list[str]:
        """What is wrong with the runs that aren't complete, each problem once, with the first run that has it."""
        found: dict[str, list[Point]] = {}
        for point, plan in zip(self.points, self.plans, strict=True):
            if point.recipe.name in self.complete:
                continue
            for problem in problems(check for check in plan.checks if not (without_home and check.name == HOME)):
                found.setdefault(problem, []).append(point)
        return [
            problem if len(points) == len(self.points) else f"{self._which(points)}: {problem}"
            for problem, points in found.items()
        ]

    def _which(self, points: Sequence[Point]) -> str:
        such = "with" if len(points) == 1 else "such as"
        return f"{len(points)} of {len(self.points)} runs, {such} {in_words(points[0].settings)}"


def make_sweep_plan(home: Path, sweep: Sweep, tell: Tell = lambda done, total, what: None) -> SweepPlan:
    """Plan every run of a sweep and check all that can be checked before the first.

    Args:
        tell: called after each run that was looked at: how many of how many, and what is looked at.

    Raises:
        RecipeError: a run's recipe is refused, or a choice of settings has no dev set to choose on. What the runs' checks find is not
            raised, but part of the plan.
    """
    points = make_points(sweep, tell)
    plans = []
    for number, point in enumerate(points, 1):
        try:
            plans.append(make_plan(home, point.recipe, Options(), point.changed))
        except RecipeError as error:
            raise RecipeError(f"with {in_words(point.settings)}: {error}") from error
        tell(number, len(points), "runs planned")
    works = [work_of(plan.nodes) for plan in plans]
    if sweep.select is not None:
        check_choice(sweep.select, points, works)
    runs = [run for run in all_runs(home) if run.state == "completed"]
    complete = {plan.recipe.name for plan in plans if result_of(plan, runs) is not None}
    return SweepPlan(home, sweep, points, plans, works, shared_first(works), complete)


def trained_only(plan: Plan) -> Plan:
    """The same run up to its policy: nothing is evaluated but on the dev set."""
    needed = ancestors(plan.nodes, [policy_node(plan.recipe)])
    nodes = [node for node in plan.nodes if node.id in needed]
    stages = {node.stage for node in nodes}
    selection = replace(plan.selection, needed=frozenset(needed), allowed=frozenset(needed))
    options = replace(plan.options, only=[stage for stage in in_order() if stage in stages])
    forecasts = {name: entry for name, entry in plan.forecasts.items() if name in needed}
    return replace(plan, nodes=nodes, selection=selection, options=options, forecasts=forecasts)


def result_of(plan: Plan, runs: Sequence[Run]) -> Run | None:
    """The first of these runs, which are complete, that is what the plan would give; None where none is."""
    return next((run for run in runs if run.record.recipe == plan.recipe.name and is_result(plan, run)), None)


def is_result(plan: Plan, run: Run) -> bool:
    """Whether a run that has ended is what the plan would give: it names every artifact that the plan finds."""
    found = {name: entry.artifact.path for name, entry in plan.forecasts.items() if entry.cached and entry.artifact is not None}
    named = {name: artifact.path for name, artifact in run.artifacts.items()}
    return len(found) == len(plan.nodes) and found.items() <= named.items()


def devices_needed(plan: Plan) -> int:
    """How many of the machine's devices a run computes on at once: those of the task that takes most of them."""
    total = shared_devices(plan.recipe).total
    todo = [entry.node for entry in plan.forecasts.values() if entry.cached is not True]
    return max([1, *(num_devices(node, total) for node in todo)])
