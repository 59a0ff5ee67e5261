"""`bnf plan SWEEP`: what the runs of a sweep share, how many trainings are left, and what they will take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flows.dag.points import Tell
from flows.dag.sweep_outlook import StageOutlook, stage_rows, sweep_outlook, total_line
from flows.dag.sweep_plan import make_sweep_plan
from flows.display import Display, print_json, print_table
from flows.errors import RecipeError
from flows.recipe.sweep_file import load_sweep
from flows.runs.home import home_folder
from flows.wording import place

# A plan that takes no longer says nothing of how far it is.
_AT_ONCE_S = 1.0


@dataclass(frozen=True)
class _Line:
    label: str = "planning"


@contextlib.contextmanager
def planning(display: Display | None = None) -> Iterator[Tell]:
    """What the plan of a sweep tells how far it is: a line in the terminal, of a plan that takes longer than a second. It goes with the
    `with`.
    """
    display, line, began_s = display or Display(), _Line(), time.monotonic()

    def tell(done: int, total: int, what: str) -> None:
        passed_s = time.monotonic() - began_s
        if passed_s < _AT_ONCE_S:
            return
        if line.label not in display.at_work:
            display.start(line, passed_s)
        display.progress(line, done, total, what)

    try:
        yield tell
    finally:
        display.at_work.pop(line.label, None)
        display.stop()


def show_sweep_plan(path: str, overrides: Sequence[str], *, as_json: bool) -> None:
    """Print what a sweep would do.

    Raises:
        RecipeError: with the problems for which `sweep` would refuse it.
    """
    home, sweep = home_folder(), load_sweep(path, overrides)
    with planning() as tell:
        plan = make_sweep_plan(home, sweep, tell)
        outlook = sweep_outlook(plan, tell)
    wrong = plan.problems(without_home=True)
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
