"""`bnf watch` and `bnf ui`: a run as it goes, by its record and progress in the home, and its page in the Prefect UI."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from uuid import UUID

from flows.commands.showing import has_display, show_results, taken_run, taken_run_or_sweep
from flows.display import Display
from flows.errors import RecipeError, Stopped
from flows.recipe.config import LATEST
from flows.runs.home import home_folder, set_prefect_environment
from flows.runs.progress import TaskProgress, read_progress
from flows.runs.record import CRASHED, RECORD, RUNNING, Run, all_runs, find_run, read_record
from flows.runs.sweeps import SweepFolder
from flows.wording import place

# Seconds between two looks at the run's folder.
_LOOK_S = 0.5
# How `bnf watch` ends where the run ended otherwise than completed or failed.
_CODES = {"completed": 0, "stopped": 143}


def watch_run(name: str) -> int:
    """Show a run, or the runs of a sweep one after another, as its own terminal does until it has ended; the exit code says how.

    Returns:
        0 completed; 1 failed, cancelled or crashed; 143 stopped by a signal.

    Raises:
        Stopped: Ctrl-C ended the watching.
    """
    home = home_folder()
    found = taken_run_or_sweep(home, name, _watched)
    return _watch_sweep(home, found) if isinstance(found, SweepFolder) else _watch(found)


def _watch_sweep(home: Path, sweep: SweepFolder) -> int:
    """Show each run that is at work in the sweep until that has ended, one after another."""
    seen: set[str] = set()
    while True:
        sweep = sweep.read_again()
        state = sweep.state
        at_work = [run.runs[-1] for run in sweep.record.runs if run.state == RUNNING and run.runs and run.runs[-1] not in seen]
        if at_work:
            seen.add(at_work[0])
            _watch(find_run(home, at_work[0]))
        elif state != RUNNING:
            break
        else:
            time.sleep(_LOOK_S)
    print(f"{sweep.id}  {state}")
    return _CODES.get(state, 1)


def _watch(run: Run) -> int:
    display = Display()
    starting = "  it is starting\n" if run.record.flow_run_id is None else ""
    display.message(f"run {run.id}\n{starting}  its page: bnf ui {run.id}\n  Ctrl-C ends the watching and leaves the run alone")
    shown = _Shown(display)
    try:
        while True:
            run, state = _now(run)
            shown.update(run, state)
            if state != RUNNING:
                break
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        raise Stopped(f"no longer watching {run.id}, which goes on", 130) from None
    finally:
        # Whatever ended it: the terminal gets its cursor back.
        display.stop()
    if state == "completed":
        display.total()
        show_results(run)
    else:
        display.broken_off(state)
        display.message(f"{run.id}  {run.where}")
    return _CODES.get(state, 1)


def _watched(home: Path, name: str) -> Run:
    """The run that a name stands for; with `latest` or a recipe's name the newest one that is at work or starting, where there is one."""
    runs = all_runs(home)
    fit = [] if name in {run.id for run in runs} else [run for run in runs if name in (LATEST, run.record.recipe)]
    run = next((run for run in fit if run.state == RUNNING), None)
    if run is not None:
        print(f"{name} is {run.id} ({run.state})", file=sys.stderr)
        return run
    run = taken_run(home, name)
    if fit:
        print("it has ended: none is at work or starting", file=sys.stderr)
    return run


def known_flow_run(found: Run | SweepFolder, within_s: float = math.inf) -> UUID:
    """The id of a run or a sweep on the Prefect server; of one that is starting, once it has an id.

    Raises:
        RecipeError: it ended before the server knew it.
        TimeoutError: it has none within that time.
    """
    deadline_s = time.monotonic() + within_s
    while found.record.flow_run_id is None:
        if time.monotonic() > deadline_s:
            raise TimeoutError
        has_ended = found.state != RUNNING
        found = found.read_again()
        if has_ended and found.record.flow_run_id is None:
            raise RecipeError(
                f"RUN must be known to the Prefect server, got {found.id}, which ended before it was: {found.where}"
            )
        if not has_ended:
            time.sleep(_LOOK_S)
    return UUID(found.record.flow_run_id)


def _now(run: Run) -> tuple[Run, str]:
    """The run as its record has it now, and its state then. The state is asked for once: it looks at the run's lock, not at the record
    alone."""
    found = _read(run)
    return found, found.state


def _read(run: Run) -> Run:
    file = run.folder / RECORD
    try:
        return replace(run, record=read_record(file, run.folder.parents[1]))
    except (FileNotFoundError, NotADirectoryError):
        raise RecipeError(f"RUN must be in the home while it is watched, got {run.id}, which somebody has deleted") from None
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"RUN must have a record that can be read while it is watched, got {file}, which can't be read ({error}); bring it back, or "
            "wait for the run's next task, with which it writes the file anew"
        ) from error


@dataclass(frozen=True)
class _Label:
    label: str


class _Shown:
    """What of a run the display has been told."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._done: set[str] = set()
        self._at_work: dict[str, TaskProgress | None] = {}
        self._num_messages = 0
        self._later: list[tuple[str, str]] = []  # messages about tasks whose end the display hasn't been told

    def update(self, run: Run, state: str) -> None:
        """Tell the display what has come since: tasks that are done, what the run said, how far those at work are."""
        seen = read_progress(run.folder)
        self._later += list(zip(seen.messages, seen.about, strict=True))[self._num_messages :]
        self._num_messages = max(self._num_messages, len(seen.messages))
        self._tell({"", *self._done})
        for name, task in run.record.tasks.items():
            label = name.replace("/", "-")
            if label not in self._done:
                self._done.add(label)
                self._at_work.pop(label, None)
                self._display.done(_Label(label), task.cached, task.seconds)
                self._tell({label})
        if state != RUNNING:
            self._tell({about for _, about in self._later})
        for working in run.record.at_work:
            label, progress = working.task, seen.tasks.get(working.task)
            if label not in self._at_work:
                self._display.start(_Label(label), None if progress is None else _ago_s(progress.began, run, state))
            if progress is not None and (progress.total or progress.note) and progress != self._at_work.get(label):
                self._display.progress(_Label(label), progress.done, progress.total, progress.note)
            self._at_work[label] = progress

    def _tell(self, labels: Set[str]) -> None:
        """Show the messages about these tasks; those about none have no label."""
        for message in [text for text, about in self._later if about in labels]:
            self._display.message(message)
        self._later = [(text, about) for text, about in self._later if about not in labels]


def _ago_s(began: str, run: Run, state: str) -> float | None:
    """How long a task has been at work; of a run that has ended, until then. When a run crashed nobody wrote down."""
    if state == CRASHED:
        return None
    end = datetime.fromisoformat(run.record.ended) if run.record.ended else datetime.now().astimezone()
    return (end - datetime.fromisoformat(began)).total_seconds()


def serve_ui(name: str | None, *, debug: bool) -> None:
    """Keep the home's server up until Ctrl-C; runs started meanwhile share it. With a run, open its page, and print its address."""
    import threading

    home = home_folder()
    run = taken_run_or_sweep(home, name) if name is not None else None
    set_prefect_environment(home, debug=debug)
    from flows.service.server import prefect_server

    with prefect_server(home) as url:
        from flows.service.crashed import mark_crashed

        mark_crashed(home)
        about = f"Prefect UI of {place(home)}"
        if run is not None:
            url, about = page(url, run), f"{run.id} in the {about}"
        print(f"{about}\n{url}\nCtrl-C ends it", flush=True)
        if run is not None and has_display():
            import webbrowser

            webbrowser.open(url)
        threading.Event().wait()


def page(url: str, run: Run | SweepFolder) -> str:
    """The address of a run's or a sweep's page in the UI at `url`.

    Raises:
        RecipeError: the server doesn't know the run.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    flow_run = known_flow_run(run)
    with get_client(sync_client=True) as client:
        try:
            client.read_flow_run(flow_run)
        except ObjectNotFound:
            raise RecipeError(
                f"RUN must be known to the Prefect server, got {run.id}, which {os.environ['PREFECT_API_URL']} has not; set "
                "PREFECT_API_URL as it was when the run was started"
            ) from None
    return f"{url}/runs/flow-run/{flow_run}"
