"""The end of a sweep: its comparison, from what its runs have left. It can be made anew from the same runs when its code has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.report.swept import Choice, FailedRun, SweepFacts, SweptRun
from flows.dag.choosing import chosen_points, contests
from flows.dag.points import Point, make_points
from flows.errors import RecipeError
from flows.recipe.sweep_file import Sweep, made_of
from flows.runs.home import open_store
from flows.runs.made import made_by
from flows.runs.record import Run, all_runs
from flows.runs.sweeps import SweepFolder, SweepRun
from flows.runs.swept import READ, swept_run
from tasks.store import Store


@dataclass(frozen=True)
class Ended:
    """A sweep whose runs have ended. `results` are those that ended well, by the recipe's name."""

    home: Path
    store: Store
    sweep: Sweep
    points: Sequence[Point]
    folder: SweepFolder
    results: Mapping[str, Run]
    choices: Sequence[Choice] = ()

    def entry(self, point: Point) -> SweepRun:
        return next(run for run in self.folder.record.runs if run.name == point.recipe.name)


def compare_again(home: Path, sweep: Sweep, folder: SweepFolder) -> bool:
    """Make the comparison anew from the runs that the sweep's record names, without running anything. Settings that were chosen stay so.

    False where a run or a file of it is gone, or today's code doesn't take its recipe, or compares other settings with one another.
    """
    points, store = make_points(sweep), open_store(home)
    runs = {run.id: run for run in all_runs(home)}
    done = [entry for entry in folder.record.runs if entry.why is None]
    if {point.recipe.name for point in points} != {entry.name for entry in folder.record.runs}:
        return False
    if any(not entry.runs or entry.runs[-1] not in runs for entry in done):
        return False
    results = {entry.name: runs[entry.runs[-1]] for entry in done}
    read = [artifact for run in results.values() for artifact in run.artifacts.values() if artifact.stage in READ]
    if not all(store.available(artifact) for artifact in read):
        return False
    choices = [Choice.from_json(one) for one in folder.record.chosen]
    if sweep.select is not None and not {one.name for one in choices} <= contests(points, sweep.select.over).keys():
        return False
    try:
        compare(Ended(home, store, sweep, points, folder, results, choices))
    except (FileNotFoundError, RecipeError):
        return False
    return True


def compare(work: Ended) -> None:
    """Write the sweep's page and tables, and of a study also its results.

    Raises:
        ValueError: where a file of a run is ill-formed.
        FileNotFoundError: where one is gone.
    """
    from evaluation.report.sweeps import write

    record, select = work.folder.record, work.sweep.select
    facts = SweepFacts(
        name=record.sweep,
        command=record.command,
        axes=record.axes,
        by=None if select is None else select.by,
        over=() if select is None else select.over,
        choices=work.choices,
        failed=_failed(work),
        variants=work.sweep.variants,
    )
    runs = _swept(work)
    write(runs, work.folder.folder, facts)
    if work.sweep.study is not None:
        from evaluation.report.study_results import find_study

        own = {name for entry in record.runs for name in entry.runs}
        made = made_by([run for run in all_runs(work.home) if run.id in own])
        study = work.sweep.study.facts()
        find_study(runs, facts, study, made, made_of(work.sweep)).write(work.folder.folder)


def _swept(work: Ended) -> list[SweptRun]:
    """The runs with a result, in the order of the sweep's file."""
    return [
        swept_run(
            work.results[point.recipe.name],
            work.store,
            label=point.label,
            settings=point.settings,
            num_settings=num_settings,
            is_chosen=is_chosen,
        )
        for point, num_settings, is_chosen in _tuned(work)
        if point.recipe.name in work.results
    ]


def _failed(work: Ended) -> list[FailedRun]:
    return [
        FailedRun(
            point.label,
            point.settings,
            entry.why,
            entry.runs[-1] if entry.runs else None,
            objective=point.objective,
            seed=point.recipe.seed,
            num_settings=num_settings,
            is_chosen=is_chosen,
            is_collapsed=entry.is_collapsed,
            is_cancelled=entry.state == "cancelled",
        )
        for point, num_settings, is_chosen in _tuned(work)
        if (entry := work.entry(point)).why is not None
    ]


def _tuned(work: Ended) -> list[tuple[Point, int, bool]]:
    """Of each run over how many settings its objective was tuned, and whether its settings were chosen."""
    select, points = work.sweep.select, work.points
    if select is None:
        return [(point, 1, True) for point in points]
    chosen = {point.recipe.name for point in chosen_points(select, points, work.choices)}
    numbers = {choice.name: len(choice.candidates) for choice in work.choices}
    tuned = {
        point.recipe.name: numbers.get(name, 1) for name, those in contests(points, select.over).items() for point in those
    }
    return [(point, tuned[point.recipe.name], point.recipe.name in chosen) for point in points]
