"""What a sweep would do: how much work its runs have, how much of it they share, and what the rest will take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from evaluation.formats import duration
from flows.dag.choosing import contests
from flows.dag.outlook import History, Outlook, base_model, outlooks
from flows.dag.plan import Plan
from flows.dag.points import Tell
from flows.dag.sweep_plan import SweepPlan, trained_only
from tasks.stages import in_order


@dataclass
class StageOutlook:
    """The tasks of one stage in all runs.

    Attributes:
        tasks: how many there are, each run's counted.
        distinct: how many are left where tasks that are the same work count once.
        cached: how many of those are there already.
        seconds: of those that would run and whose time is known.
        unknown: how many would run that nothing is known of.
    """

    tasks: int = 0
    distinct: int = 0
    cached: int = 0
    seconds: float = 0.0
    unknown: int = 0

    @property
    def to_run(self) -> int:
        return self.distinct - self.cached

    def to_json(self) -> dict[str, object]:
        return {**vars(self), "to_run": self.to_run}


@dataclass
class SweepOutlook:
    """What a sweep would do, by stage in the order of a run. `evaluated` is the number of runs that are evaluated."""

    stages: dict[str, StageOutlook] = field(default_factory=dict)
    evaluated: int = 0

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages.values())

    @property
    def unknown(self) -> int:
        return sum(stage.unknown for stage in self.stages.values())


def sweep_outlook(plan: SweepPlan, tell: Tell = lambda done, total, what: None) -> SweepOutlook:
    """What a sweep would do; `tell` is called with each run. Which settings will be chosen isn't known: the first of each contest stand
    for them.
    """
    found, seen = SweepOutlook(), set[str]()
    histories: dict[str | None, History] = {}
    stages: dict[str, StageOutlook] = {}
    for number, (place, run) in enumerate(_runs(plan), 1):
        tell(number, len(plan.points), "runs estimated")
        takes: Mapping[str, Outlook] | None = None
        found.evaluated += any(node.stage == "report" for node in run.nodes)
        for node in run.nodes:
            stage, work = stages.setdefault(node.stage, StageOutlook()), plan.works[place][node.id]
            stage.tasks += 1
            if work in seen:
                continue
            seen.add(work)
            stage.distinct += 1
            if run.forecasts[node.id].cached:
                stage.cached += 1
                continue
            if takes is None:
                model = base_model(run)
                takes = outlooks(run, histories.setdefault(model, History(run.home, model)))
            seconds = takes[node.id].seconds
            if seconds is None:
                stage.unknown += 1
            else:
                stage.seconds += seconds
    found.stages = {name: stages[name] for name in in_order() if name in stages}
    return found


def _runs(plan: SweepPlan) -> Iterator[tuple[int, Plan]]:
    """The runs as they will begin, by their places: with `select` each up to its policy, and those of stand-ins whole."""
    select = plan.sweep.select
    whole: set[str] = set()
    if select is not None:
        for those in contests(plan.points, select.over).values():
            first = {key: those[0].settings[key] for key in select.over}
            whole |= {point.recipe.name for point in those if first.items() <= point.settings.items()}
    for place in plan.order:
        is_whole = select is None or plan.points[place].recipe.name in whole
        yield place, plan.plans[place] if is_whole else trained_only(plan.plans[place])


def stage_rows(outlook: SweepOutlook) -> list[dict[str, str]]:
    """A row for each stage."""
    return [
        {
            "stage": name,
            "in all runs": str(stage.tasks),
            "shared": str(stage.tasks - stage.distinct or ""),
            "cached": str(stage.cached or ""),
            "to run": str(stage.to_run or ""),
            "time": _time(stage),
        }
        for name, stage in outlook.stages.items()
    ]


def _time(stage: StageOutlook) -> str:
    known = duration(stage.seconds) if stage.to_run > stage.unknown else ""
    unknown = f"{stage.unknown} unknown" if stage.unknown else ""
    return ", ".join(filter(None, (known, unknown)))


def total_line(outlook: SweepOutlook) -> str:
    """The work in all, as if one task came after another."""
    without = f", without {outlook.unknown} tasks of unknown time" if outlook.unknown else ""
    return f"{duration(outlook.seconds)} of work{without}"
