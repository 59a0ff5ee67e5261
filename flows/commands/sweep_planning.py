"""`bnf plan SWEEP`: what the runs of a sweep share, how many trainings are left, and what they will take."""

from __future__ import annotations

from collections.abc import Sequence

from flows.dag.sweep_outlook import StageOutlook, stage_rows, sweep_outlook, total_line
from flows.dag.sweep_plan import make_sweep_plan
from flows.display import print_json, print_table
from flows.errors import RecipeError
from flows.recipe.sweep_file import load_sweep
from flows.runs.home import home_folder
from flows.wording import place


def show_sweep_plan(path: str, overrides: Sequence[str], *, as_json: bool) -> None:
    """Print what a sweep would do.

    Raises:
        RecipeError: with the problems for which `sweep` would refuse it.
    """
    home, sweep = home_folder(), load_sweep(path, overrides)
    plan = make_sweep_plan(home, sweep)
    outlook, wrong = sweep_outlook(plan), plan.problems(without_home=True)
    trainings = outlook.stages.get("train", StageOutlook())
    if as_json:
        print_json(
            {
                "sweep": sweep.name,
                "runs": [{"name": point.recipe.name, "settings": point.settings} for point in plan.points],
                "evaluated": outlook.evaluated,
                "stages": {name: stage.to_json() for name, stage in outlook.stages.items()},
                "trainings": trainings.to_run,
                "seconds": outlook.seconds,
                "unknown": outlook.unknown,
                "problems": plan.problems(),
            }
        )
    else:
        axes = " × ".join(f"{len(values)} {key}" for key, values in sweep.axes.items() if len(values) > 1)
        print(
            f"{sweep.name} in {place(home)}: {len(plan.points)} runs{f' ({axes})' if axes else ''}, {outlook.evaluated} evaluated"
        )
        print_table("", stage_rows(outlook))
        print(f"{trainings.distinct} trainings, {trainings.cached} of them cached; {total_line(outlook)}")
    if wrong:
        raise RecipeError("\n".join(wrong))
