"""`bnf runs` and `bnf rm`: the runs of the home as a table, and dropping some of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from evaluation.formats import duration, number
from flows.commands.showing import taken_run
from flows.display import age, print_json, print_table, size
from flows.errors import RecipeError
from flows.runs.garbage import Dropped, remove
from flows.runs.home import home_folder
from flows.runs.listing import ListedRun, chosen, fold, headline_text, list_runs
from flows.runs.naming import changes
from flows.runs.record import Run, all_runs
from flows.runs.sweeps import sweep_of


def show_runs(*, filters: Sequence[str], sort: str, every: bool, as_json: bool) -> None:
    """Print the runs that all filters fit; without `every`, those that repeat another one from the cache are a number beside it."""
    home = home_folder()
    rows = chosen(list_runs(all_runs(home), sweep_of(home)), filters, sort)
    if as_json:
        print_json({"runs": rows})
    elif rows:
        shown = [(row, 0) for row in rows] if every else fold(rows)
        print_table("", _without_empty([_row(row, repeats) for row, repeats in shown]), words=True)
    elif filters:
        print(f"no run in {home} fits {' '.join(filters)}; `bnf runs` lists all")
    else:
        print(f"no runs in {home} yet; start one with `bnf run flows/recipes/quickstart.yaml`")


def _row(row: ListedRun, repeats: int) -> dict[str, str]:
    started = datetime.fromisoformat(row["started"])
    dev = row["dev_accuracy"]
    return {
        "run": row["run"] + (f"  +{repeats} cached" if repeats else ""),
        "state": row["state"],
        "age": age((datetime.now().astimezone() - started).total_seconds()),
        "took": "" if row["seconds"] is None else duration(row["seconds"]),
        "sweep": row["sweep"] or "",
        "objective": row["objective"] or "",
        "model": row["model"] or "",
        "changed": changes(row["changed"]),
        "result": headline_text(row["headline"]),
        "dev": "" if dev is None else number(dev),
        "own": size(row["bytes_of_its_own"]),
    }


def _without_empty(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The table without columns in which no run has a value."""
    filled = [column for column in rows[0] if any(row[column] for row in rows)]
    return [{column: row[column] for column in filled} for row in rows]


def remove_runs(names: Sequence[str], *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Drop runs and what they alone name, after a question on the terminal."""
    home = home_folder()
    runs = list({run.id: run for run in (taken_run(home, name) for name in names)}.values())
    dropped = remove(home, runs, dry_run=True)
    if not dry_run:
        if not yes:
            _ask(runs, dropped, as_json)
        dropped = remove(home, runs, dry_run=False)
    if as_json:
        freed = sum(entry["bytes"] for entry in dropped)
        print_json({"dry_run": dry_run, "runs": [run.id for run in runs], "bytes": freed, "dropped": dropped})
        return
    _say(home, runs, dropped, "would be dropped" if dry_run else "dropped")


def _ask(runs: Sequence[Run], dropped: Sequence[Dropped], as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise RecipeError("rm must be confirmed, got no terminal to ask on; add --yes, or look first with --dry-run")
    freed = size(sum(entry["bytes"] for entry in dropped))
    print("\n".join(run.id for run in runs))
    answer = input(f"drop {_runs(runs)} and the {freed} that no other run names? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise RecipeError("rm must be confirmed, got no yes; nothing was dropped")


def _say(home: Path, runs: Sequence[Run], dropped: Sequence[Dropped], verb: str) -> None:
    print_table("", [{**entry, "bytes": size(entry["bytes"])} for entry in dropped], words=True)
    freed = size(sum(entry["bytes"] for entry in dropped))
    print(f"{_runs(runs)} and {len(dropped)} folders, {freed}, {verb} from {home}: {', '.join(run.id for run in runs)}")


def _runs(runs: Sequence[Run]) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs"
