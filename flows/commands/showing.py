"""`bnf show` and `bnf report`: what a run gave."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from evaluation.records import Record, read_json
from flows.display import print_json, print_notes, print_table, timeline
from flows.errors import RecipeError
from flows.runs.home import home_folder
from flows.runs.policy import policy_lines, shown_policy
from flows.runs.record import REPORT, RUNNING, Need, Run, described, find_run, passed_over
from flows.runs.sweeps import SweepFolder, find_sweep
from flows.wording import place
from tasks.names import TaskName

# The report has more, and longer texts.
_NUM_HIGHEST = 3


def show_run(name: str, *, as_json: bool) -> None:
    run = taken_run(home_folder(), name)
    if as_json:
        print_json(shown(run))
        return
    print(f"{run.id}  {run.where}")
    spans = {name: (task.started, task.ended) for name, task in run.record.tasks.items() if task.started and task.ended}
    heading, bars = timeline(spans) if spans else ("", {})
    tasks = [
        {
            "task": name,
            "": ("other code" if task.other_code else "cached") if task.cached else "done",
            "seconds": f"{task.seconds:.1f}",
            "artifact": task.artifact.fingerprint[:12],
            **({heading: bars.get(name, "")} if bars else {}),
        }
        for name, task in run.record.tasks.items()
    ]
    print_table("", tasks)
    show_results(run)


def show_results(run: Run) -> None:
    """The table of results, and where the policy, the report and the UI are."""
    policy = policy_lines(run)
    if not (run.folder / "summary.json").exists():
        _show_ches(_scored_so_far(run))
        print("\n".join(policy), end="\n" if policy else "")
        return
    from evaluation.report.checkpoints import MEANING as MEANING_OVER_TRAINING
    from evaluation.report.checkpoints import checkpoint_rows, names_of
    from evaluation.report.dev_set import dev_meaning, dev_rows, dev_title
    from evaluation.report.lm_eval import task_rows
    from evaluation.report.rounds import round_rows
    from evaluation.report.summary import notes, sample_rows, table_rows

    summary = read_json(run.folder / "summary.json")
    print()
    print_table("", table_rows(summary))
    print_table("several samples of each item", sample_rows(summary))
    print_table("lm-eval's own tasks", task_rows(summary))
    if len(rounds := summary.get("rounds", [])) > 1:
        print_table("rounds", round_rows(rounds))
    said = notes(summary)
    if way := summary.get("checkpoints"):
        print_table("over training: Δ to the base model", checkpoint_rows(way, names_of(summary)))
        said.append(MEANING_OVER_TRAINING)
    dev = (summary["train"] or {}).get("dev")
    if dev is not None:
        print_table(dev_title(dev), dev_rows(dev))
        said.append(dev_meaning(dev))
    print_notes(said)
    # Runs of older versions have none.
    _show_ches(summary.get("ches"))
    report = place(run.folder / "report.html")
    print("\n".join(["", *policy, f"report  {report}", f"UI      bnf ui {run.folder.name}"]))


def _scored_so_far(run: Run) -> Record | None:
    """The CHES scores of a run that has no report yet: they are there before the training. Of several rounds those of the newest."""
    folders = {task: made.artifact.path for task, made in run.record.tasks.items()}
    scored = [name for name in map(TaskName.from_id, folders) if name.stage == "reference" and name.role in (None, "base")]
    if not scored:
        return None
    from evaluation.report.ches import scored_by, summarize_ches

    newest = scored[-1]
    data = folders.get(replace(newest, stage="prepare", role=None).id)
    # A recipe of an older version may not be valid today.
    model = scored_by(run.written_recipe, newest.round)
    return summarize_ches(folders[newest.id], data, folders.get("analyze"), model)


def _show_ches(found: Record | None) -> None:
    if found is None:
        return
    from evaluation.report.ches import ches_notes, ches_rows, highest_rows

    print()
    print_table("pairs by CHES", ches_rows(found))
    print_table("pairs with the highest CHES", highest_rows(found)[:_NUM_HIGHEST], words=True)
    print_notes(ches_notes(found))


def shown(run: Run) -> dict[str, object]:
    path = run.folder / "summary.json"
    return {
        "run": run.id,
        **run.record.to_json(),
        "state": run.state,
        "folder": str(run.folder),
        "policy": shown_policy(run),
        "summary": read_json(path) if path.exists() else None,
    }


def show_report(name: str, *, open_it: bool, as_json: bool) -> None:
    run = taken_run(home_folder(), name, REPORT)
    path = run.folder / "report.html"
    if not path.exists():
        raise RecipeError(f"RUN must have a report, got none in {run.id} ({run.state}); finish it with `bnf run`")
    if open_it and not (has_display() and webbrowser.open(path.as_uri())):
        print("no browser could be opened here: open the file in one", file=sys.stderr)
    if as_json:
        print_json({"run": run.id, "report": str(path)})
    else:
        print(path)


def taken_run(home: Path, name: str, need: Need | None = None) -> Run:
    """The run that a name stands for, as `find_run`. Unless the name is the run's own, standard error says which run was taken, and which
    newer ones were passed over."""
    run = find_run(home, name, need)
    over = ", ".join(described(one, need) for one in passed_over(home, name, run))
    if run.id != name:
        lack = f"; without {need.what}, and so passed over: {over}" if need and over else ""
        print(f"{name} is {run.id} ({run.state}){lack}", file=sys.stderr)
    return run


def taken_run_or_sweep(home: Path, name: str, take: Callable[[Path, str], Run] = taken_run) -> Run | SweepFolder:
    """The sweep of that name where it is at work, or where no run's name fits; else the run that `take` finds."""
    sweep = find_sweep(home, name)
    if sweep is not None and sweep.state != RUNNING:
        with contextlib.suppress(RecipeError):
            return take(home, name)
    if sweep is None:
        return take(home, name)
    print(f"{name} is the sweep {sweep.id} ({sweep.state})", file=sys.stderr)
    return sweep


def has_display() -> bool:
    """Whether a browser could show something here: without a display, one for the terminal would take the terminal over."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
