"""`bnf sweep`: the runs of a sweep, and the comparison of what they gave."""

from __future__ import annotations

import contextvars
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.report.swept import PAGE, RESULTS
from flows.commands.sweep_planning import planning
from flows.dag.sweep_plan import SweepPlan, make_sweep_plan
from flows.display import Display, HasLabel, print_json, print_table
from flows.errors import RecipeError, Stopped
from flows.recipe.sweep_file import load_sweep
from flows.runs.home import home_folder, set_prefect_environment
from flows.runs.naming import changes
from flows.runs.record import RUNNING
from flows.runs.sweeps import SweepFolder, SweepRecord, SweepRun, begin, find_sweep, held, left_out, require_same_file
from flows.wording import counted, place
from tasks.child import Cancelled
from tasks.home_lock import using
from tasks.nodes import Node

if TYPE_CHECKING:
    from flows.sweep import Teller


def run_sweep(
    path: str,
    overrides: Sequence[str],
    *,
    as_json: bool = False,
    debug: bool = False,
    show: Callable[[SweepFolder], None] | None = None,
) -> int:
    """Check a sweep, run what of it isn't complete, and show what came out, by `show` where it is given; the exit code: 1 where a run
    failed.
    """
    home, sweep = home_folder(), load_sweep(path, overrides)
    set_prefect_environment(home, debug=debug)
    # What the plan finds in the home stays until the sweep has ended: nothing is dropped, and no other of its name begins.
    with using(home), held(home, sweep.name):
        earlier = find_sweep(home, sweep.name)
        require_same_file(earlier, sweep.file)
        with planning() as tell:
            plan = make_sweep_plan(home, sweep, tell)
        found, was_begun = plan.problems(), earlier is not None and any(run.runs for run in earlier.record.runs)
        # A sweep that was begun is finished but for these runs.
        if found and (not was_begun or plan.all_refused):
            raise RecipeError("\n".join(found))
        record = SweepRecord(
            sweep.name,
            str(sweep.file),
            shlex.join(["bnf", "sweep", path, *overrides]),
            sweep.axes,
            sweep.select.model_dump() if sweep.select is not None else None,
            [SweepRun(point.recipe.name, point.settings) for point in plan.points],
        )
        if gone := left_out(record, earlier):
            print(
                f"{counted(len(gone), 'run')} of this sweep before the file or the settings were changed, no part of it any more: "
                f"{', '.join(gone)}",
                file=sys.stderr,
            )
        folder = begin(home, record, earlier)
        _run(plan, folder)
    if show is not None:
        show(folder)
    elif as_json:
        print_json(shown(folder))
    else:
        _show(folder)
    return 1 if folder.record.failed else 0


def shown(folder: SweepFolder) -> dict[str, object]:
    """A sweep as `--json` prints it; `failed` is there where runs have no result."""
    record = folder.record
    found: dict[str, object] = {
        "sweep": record.sweep,
        "runs": [{"run": run.runs[-1], "settings": run.settings} for run in record.runs if run.why is None and run.runs],
        "results": str(folder.folder / RESULTS),
        "page": str(folder.folder / PAGE),
    }
    failed = [{"run": run.runs[-1] if run.runs else None, "settings": run.settings, "why": run.why} for run in record.failed]
    return {**found, "failed": failed} if failed else found


def _run(plan: SweepPlan, folder: SweepFolder) -> None:
    from flows.service.server import prefect_server

    display = Display()
    try:
        with prefect_server(plan.home, meanwhile=_import_flow) as url:
            from prefect.exceptions import CancelledRun, FailedRun

            from flows.sweep import WORK, Work, sweep

            name = folder.record.sweep

            def started(flow_run_id: str) -> None:
                display.message(f"sweep {name}, {len(plan.points)} runs\n  watch it at {url}/runs/flow-run/{flow_run_id}")

            # For this call alone: one after it in the same process has a plan of its own.
            context = contextvars.copy_context()
            context.run(WORK.set, Work(plan, folder, _teller(name, display, started)))
            try:
                context.run(lambda: sweep(name))
            except CancelledRun as error:
                raise Cancelled("the sweep was cancelled; the same command goes on from where it was") from error
            except FailedRun:
                # The record names the runs.
                if not folder.record.failed:
                    raise
            finally:
                display.stop()
        if display.times:
            display.total()
    except Exception as error:
        how = "cancelled" if isinstance(error, Cancelled) else "failed"
        display.broken_off(how)
        _end(folder, how)
        raise
    except BaseException as signal:
        # Ctrl-C, `cli.main`'s answer to SIGTERM, and Prefect's own: whatever the sweep was about when it came.
        by, code = ("Ctrl-C", 130) if isinstance(signal, KeyboardInterrupt) else ("SIGTERM", 143)
        where = display.broken_off("stopped")
        _end(folder, "stopped")
        raise Stopped(f"stopped by {by} {where}; the same command goes on from there", code) from None


def _end(folder: SweepFolder, state: str) -> None:
    """Record how a sweep ended whose flow didn't come so far as to record it."""
    if folder.record.state == RUNNING:
        folder.end(state)


def _import_flow() -> None:
    import flows.sweep  # noqa: F401


@dataclass(frozen=True)
class _Label:
    label: str


def _teller(sweep: str, display: Display, started: Callable[[str], None]) -> Teller:
    """What the terminal shows of a sweep: a line for each run, and its tasks as `bnf run` shows them. Where several runs are at work the
    run's settings stand before each.
    """
    from flows.runner import Listener
    from flows.sweep import Teller

    def listener(name: str, number: str, alone: bool) -> Listener:
        short = name.removeprefix(f"{sweep}-")

        def called(node: Node) -> HasLabel:
            return node if alone else _Label(f"{short}: {node.label}")

        return Listener(
            on_run=lambda run: display.message(f"run {number}: {run.id}\n  from another terminal: bnf watch {run.id}"),
            on_start=lambda node: display.start(called(node)),
            on_progress=lambda node, *how: display.progress(called(node), *how),
            on_done=lambda node, *how: display.done(called(node), *how),
            on_failed=lambda node: display.failed(called(node)),
            on_message=lambda text: display.message(text if alone else f"{short}: {text}"),
        )

    return Teller(display.message, started, listener)


def _show(folder: SweepFolder) -> None:
    """The runs with their settings, what was chosen, what failed, and where tables and page are."""
    record = folder.record
    # What all runs have alike says nothing of one.
    differ = [key for key, values in record.axes.items() if len(values) > 1]
    rows = [
        {
            "run": run.runs[-1] if run.runs else run.name,
            "": run.state,
            "settings": changes({key: run.settings[key] for key in differ}),
            "why": run.why or "",
        }
        for run in record.runs
    ]
    if not record.failed:
        rows = [{key: value for key, value in row.items() if key != "why"} for row in rows]
    print_table("", rows, words=True)
    if record.how:
        print(f"chosen  {record.how}")
        for choice in record.chosen:
            print(f"        {choice['name']}: {changes(choice['settings'])}")
    if record.failed:
        print(f"failed  {len(record.failed)} of {len(record.runs)} runs; the same command tries them again")
    print(f"tables  {place(folder.folder / RESULTS)}, and .parquet and .tex beside it\npage    {place(folder.folder / PAGE)}")
