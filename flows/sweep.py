"""The flow of a sweep: its runs as subflows, as many at once as the machine has room for, the choice of settings, and the comparison."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from prefect import State, flow
from prefect.artifacts import create_link_artifact
from prefect.exceptions import CancelledRun
from prefect.runtime import flow_run
from prefect.states import Cancelled as cancelled_state
from prefect.states import Failed as failed_state

from bnf.host import own_cores
from bnf.training.collapse import TrainingCollapsed
from evaluation.report.swept import PAGE, Choice
from flows.align import LISTENER, PLAN, SHARE, align
from flows.dag.choosing import choose, chosen_points, how_chosen
from flows.dag.plan import Plan
from flows.dag.points import Point, in_words
from flows.dag.preflight import problems
from flows.dag.resources import shared_devices
from flows.dag.schedule import Waiting, startable
from flows.dag.sweep_plan import SweepPlan, devices_needed, result_of, trained_only
from flows.errors import RecipeError
from flows.runner import Listener
from flows.runs.record import RUNNING, Run, all_runs, find_run
from flows.runs.sweeps import SweepFolder, SweepRun
from flows.runs.swept import dev_figures
from flows.service.cancel import cancellation
from flows.service.crashed import mark_crashed
from flows.service.sharing import Share, SharedAccelerator, part
from flows.sweep_end import Ended, compare
from tasks.child import Cancelled, StageFailed
from tasks.prefect_task import artifact_key
from tasks.resources import DEVICES
from tasks.threads import Threads

_LOOK_S = 0.5
# How long runs have to end in order once the sweep is stopped. Each ends its processes, and gives its nodes ten seconds.
_STOP_S = 30.0


@dataclass(frozen=True)
class Teller:
    """What is called as a sweep goes on; the terminal shows it. `listener` gives a run its own, by its name, its place among the runs that
    are left (`3 of 12`), and whether it is alone at work.
    """

    on_message: Callable[[str], None] = lambda text: None
    on_flow: Callable[[str], None] = lambda flow_run_id: None
    listener: Callable[[str, str, bool], Listener] = lambda name, place, alone: Listener()


@dataclass
class Work:
    """A sweep at work: what is planned, its folder, and who listens. `results` are the runs that have ended well, by the recipe's name."""

    plan: SweepPlan
    folder: SweepFolder
    tell: Teller
    results: dict[str, Run] = field(default_factory=dict)
    choices: Sequence[Choice] = ()

    def entry(self, point: Point) -> SweepRun:
        return next(run for run in self.folder.record.runs if run.name == point.recipe.name)


# What the command hands to the flow: parameters of a flow must be JSON, which this isn't.
WORK: contextvars.ContextVar[Work] = contextvars.ContextVar("bnf_sweep")


@flow(name="sweep", flow_run_name="{name}")
def sweep(name: str) -> str | State[str]:
    """Run every run of a sweep that isn't complete yet, choose settings where it asks for that, and compare what came out.

    A run that fails ends no other. Whether one failed is in the sweep's record.
    """
    work = WORK.get()
    flow_run_id = UUID(str(flow_run.get_id()))
    work.folder.record.flow_run_id = str(flow_run_id)
    work.folder.save()
    work.tell.on_flow(str(flow_run_id))
    with _recorded(work.folder):
        mark_crashed(work.plan.home)
        try:
            with cancellation(flow_run_id) as cancelled:
                _run(work, cancelled)
        except Cancelled as error:
            work.folder.end("cancelled")
            return cancelled_state(message=str(error))
        plan = work.plan
        compare(Ended(plan.home, plan.plans[0].store, plan.sweep, plan.points, work.folder, work.results, work.choices))
        page = work.folder.folder / PAGE
        create_link_artifact(
            page.as_uri(), link_text=f"comparison of {name}", key=f"{artifact_key(name)}-sweep", description=str(page)
        )
        failed, every = len(work.folder.record.failed), len(work.plan.points)
        work.folder.end("failed" if failed else "completed")
    return failed_state(message=f"{failed} of {every} runs have no result") if failed else name


@contextlib.contextmanager
def _recorded(folder: SweepFolder) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        # Ctrl-C, and Prefect's own signal for a termination, are no Exceptions.
        folder.end("failed" if isinstance(error, Exception) else "stopped")
        raise


def _run(work: Work, cancelled: Callable[[], bool]) -> None:
    plan, select = work.plan, work.plan.sweep.select
    if select is None:
        _run_all(work, plan.in_order, cancelled)
        return
    _run_all(work, [(point, trained_only(whole)) for point, whole in plan.in_order], cancelled)
    values = {name: dev_figures(run, plan.plans[0].store) for name, run in work.results.items()}
    have = {name: found[select.by] for name, found in values.items() if select.by in found}
    for point in plan.points:
        if point.recipe.name in work.results and point.recipe.name not in have:
            entry = work.entry(point)
            entry.state = "failed"
            entry.why = f"select.by must be a number on its dev set, got no {select.by}; choose by the other, or lower its learning rate"
    work.choices = choose(select, work.plan.points, have)
    record = work.folder.record
    record.chosen = [dataclasses.asdict(choice) for choice in work.choices]
    record.how = how_chosen(select, work.choices)
    work.folder.save()
    work.tell.on_message(f"chosen: {record.how}")
    for choice in work.choices:
        work.tell.on_message(f"  {choice.name}: {in_words(choice.settings)} ({select.by} {choice.candidates[0].mean:.4g})")
    names = {point.recipe.name for point in chosen_points(select, plan.points, work.choices)}
    _run_all(work, [(point, whole) for point, whole in plan.in_order if point.recipe.name in names], cancelled)


def _run_all(work: Work, wanted: Sequence[tuple[Point, Plan]], cancelled: Callable[[], bool]) -> None:
    """Run what isn't complete yet, in this order, as many at once as the machine's devices allow.

    Raises:
        Cancelled: the sweep was cancelled.
    """
    runs = [run for run in all_runs(work.plan.home) if run.state == "completed"]
    todo = {point.recipe.name: (point, plan) for point, plan in wanted if not _take_result(work, point, plan, runs)}
    if len(todo) < len(wanted):
        work.tell.on_message(f"{len(wanted) - len(todo)} of {len(wanted)} runs are complete already")
    for name, (point, plan) in list(todo.items()):
        # Known by now of a sweep that was begun before it was: its other runs are finished all the same.
        if wrong := problems(plan.checks):
            _note(work, point, None, RecipeError("\n".join(wrong)))
            del todo[name]
    if not todo:
        return
    devices = shared_devices(next(iter(todo.values()))[1].recipe)
    tasks = [Waiting(name, (), {DEVICES: min(devices_needed(plan), devices.total)}) for name, (_, plan) in todo.items()]
    at_once = max(1, devices.total // min(task.needs[DEVICES] for task in tasks))
    stop, was_cancelled, together = threading.Event(), threading.Event(), SharedAccelerator()
    free = list(range(devices.total))
    given: dict[str, list[int]] = {}
    ended: list[str] = []
    with Threads[str]() as threads:
        try:
            while len(ended) < len(tasks):
                if cancelled():
                    was_cancelled.set()
                    raise Cancelled("the sweep was cancelled; the same command goes on from where it was")
                for name in startable(tasks, ended, threads.at_work, {DEVICES: devices.total}):
                    needed = next(task.needs[DEVICES] for task in tasks if task.name == name)
                    given[name], free = free[:needed], free[needed:]
                    share = Share(stopped=stop.is_set, cancelled=was_cancelled.is_set)
                    if at_once > 1:
                        slots = max(1, len(own_cores()) // at_once)
                        share = Share(part(devices, given[name]), slots, together, stop.is_set, was_cancelled.is_set)
                    _begin(work, *todo[name], share, threads, place=f"{len(given)} of {len(tasks)}", alone=at_once == 1)
                found = threads.ended(_LOOK_S)
                if found is not None:
                    ended.append(found.name)
                    free = sorted(free + given[found.name])
                    _note(work, todo[found.name][0], found.result, found.error)
        except BaseException:
            stop.set()
            threads.wait(_STOP_S)
            raise


def _take_result(work: Work, point: Point, plan: Plan, runs: Sequence[Run]) -> bool:
    """Take one of these runs, which are complete, as one that an earlier call of the same command made."""
    run = result_of(plan, runs)
    if run is not None:
        _note(work, point, run.id, None)
    return run is not None


def _begin(work: Work, point: Point, plan: Plan, share: Share, threads: Threads[str], *, place: str, alone: bool) -> None:
    """Begin a run on a thread of its own, and wait until it is there: Prefect counts a flow's subflows without a lock."""
    there = threading.Event()
    listener = work.tell.listener(point.recipe.name, place, alone)
    entry = work.entry(point)

    def on_run(run: Run) -> None:
        entry.runs.append(run.id)
        entry.state, entry.why = RUNNING, None
        work.folder.save()
        listener.on_run(run)
        there.set()

    def run() -> str:
        try:
            LISTENER.set(dataclasses.replace(listener, on_run=on_run))
            PLAN.set(plan)
            SHARE.set(share)
            return str(align(plan.recipe, **dataclasses.asdict(plan.options)))
        finally:
            there.set()

    threads.start(point.recipe.name, run)
    there.wait()


def _note(work: Work, point: Point, run: str | None, error: BaseException | None) -> None:
    """Take down how a run ended."""
    entry = work.entry(point)
    if run is not None:
        entry.runs = [*(name for name in entry.runs if name != run), run]
        entry.state, entry.why, entry.is_collapsed = "completed", None, False
        work.results[point.recipe.name] = find_run(work.plan.home, run)
    else:
        is_cancelled = isinstance(error, CancelledRun | Cancelled)
        entry.state, entry.why = ("cancelled", "it was cancelled") if is_cancelled else ("failed", str(error))
        entry.is_collapsed = isinstance(error, StageFailed) and error.kind == TrainingCollapsed.__name__
        work.results.pop(point.recipe.name, None)
        work.tell.on_message(f"{point.recipe.name}: {entry.state}: {entry.why}")
    work.folder.save()
