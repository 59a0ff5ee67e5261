"""`bnf runs` and `bnf rm`: the runs of the home as a table, and dropping some of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

from evaluation.formats import duration, number
from flows.commands.showing import taken_run
from flows.display import age, fits, print_json, print_notes, print_table, size
from flows.errors import RecipeError
from flows.runs.garbage import Dropped, in_the_way, remove
from flows.runs.home import home_folder
from flows.runs.listing import ListedRun, chosen, fold, headline_text, list_runs
from flows.runs.naming import changes
from flows.runs.record import Run, all_runs, read_runs
from flows.runs.sizes import bytes_freed, sharing
from flows.runs.sweeps import find_sweep, sweep_of, unreadable_sweeps
from flows.wording import counted, place

# What a value is called where no column's head says it.
_SAID = {"age": "{} ago", "took": "took {}", "dev": "dev {}", "own": "{} of its own"}
_SHARED = "shared"
_MOST_NAMES = 3


def show_runs(*, filters: Sequence[str], sort: str, every: bool, as_json: bool) -> None:
    """Print the runs that all filters fit; without `every`, those that repeat another one from the cache are a number beside it."""
    home = home_folder()
    runs, unreadable = read_runs(home)
    for file, reason in unreadable.items():
        print(f"not listed: {file.parent.name}, whose {file.name} can't be read ({reason})", file=sys.stderr)
    for file, reason in unreadable_sweeps(home).items():
        print(f"runs of {file.parent.name} without their sweep, whose {file.name} can't be read ({reason})", file=sys.stderr)
    rows = chosen(list_runs(runs, sweep_of(home)), filters, sort)
    if as_json:
        print_json({"runs": rows})
    elif rows:
        shown = [(row, list[str]()) for row in rows] if every else fold(rows)
        freed = bytes_freed(runs, [(row["run"], *repeats) for row, repeats in shown])
        _print([_row(row, len(repeats), own) for (row, repeats), own in zip(shown, freed, strict=True)])
    elif filters:
        print(f"no run in {home} fits {' '.join(filters)}; `bnf runs` lists all")
    else:
        print(f"no runs in {home} yet; start one with `bnf run flows/recipes/quickstart.yaml`")


def _row(row: ListedRun, repeats: int, own: int) -> dict[str, str]:
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
        # That it has artifacts and none is its own looks like a run without any.
        "own": _SHARED if row["bytes"] and not own else size(own),
    }


def _print(rows: list[dict[str, str]]) -> None:
    """The runs as a table without empty columns; where the terminal is too narrow for it, a few lines each, beginning with the name's."""
    filled = [column for column in rows[0] if any(row[column] for row in rows)]
    rows = [{column: row[column] for column in filled} for row in rows]
    if fits(rows):
        print_table("", rows, words=True)
        return
    for row in rows:
        print(row.pop("run"))
        changed = row.pop("changed", "")
        if row["own"] == _SHARED:
            row["own"] = "nothing"
        said = [_SAID.get(column, "{}").format(value) for column, value in row.items() if value]
        print_notes([", ".join(said), *([changed] if changed else [])])


def remove_runs(names: Sequence[str], *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Drop runs and what they alone name, after a question on the terminal."""
    home = home_folder()
    known = {run.id for run in all_runs(home)}
    if sweep := next((name for name in names if name not in known and find_sweep(home, name) is not None), None):
        raise RecipeError(
            f"RUN must be a run, got the sweep {sweep}; name its runs, which bnf runs --filter sweep={sweep} lists"
        )
    runs = list({run.id: run for run in (taken_run(home, name) for name in names)}.values())
    obstacle = in_the_way(home, runs)
    if obstacle is not None and not dry_run:
        raise RecipeError(obstacle)
    dropped = remove(home, runs, dry_run=True)
    stays = _what_stays(dropped, sharing(all_runs(home), runs))
    if not dry_run:
        if not yes:
            _ask(runs, dropped, stays, as_json)
        dropped = remove(home, runs, dry_run=False)
    if as_json:
        freed = sum(entry["bytes"] for entry in dropped)
        found = {"dry_run": dry_run, "runs": [run.id for run in runs], "bytes": freed, "dropped": dropped}
        print_json(found if obstacle is None else {**found, "not_now": obstacle})
        return
    print_table("", [{**entry, "bytes": size(entry["bytes"])} for entry in dropped], words=True)
    verb = "would be dropped" if dry_run else "dropped"
    print(f"{_counted(runs, dropped)} {verb} from {place(home)}: {', '.join(run.id for run in runs)}")
    if stays:
        print(stays)
    if obstacle is not None:
        print(f"not now: {obstacle}")


def _ask(runs: Sequence[Run], dropped: Sequence[Dropped], stays: str, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise RecipeError("rm must be confirmed, got no terminal to ask on; add --yes, or look first with --dry-run")
    print("\n".join([*(run.id for run in runs), *([stays] if stays else [])]))
    answer = input(f"drop {_counted(runs, dropped).removesuffix(',')}? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise RecipeError("rm must be confirmed, got no yes; nothing was dropped")


def _counted(runs: Sequence[Run], dropped: Sequence[Dropped]) -> str:
    """`1 run and 2 folders of artifacts, 3.2 GB,`; of runs that free nothing their number alone."""
    if not dropped:
        return counted(len(runs), "run")
    freed = size(sum(entry["bytes"] for entry in dropped))
    return f"{counted(len(runs), 'run')} and {counted(len(dropped), 'folder')} that no other run names, {freed},"


def _what_stays(dropped: Sequence[Dropped], others: Sequence[str]) -> str:
    """Why no room is freed, or less than one may expect; empty where all goes."""
    if not others:
        return ""
    named = ", ".join(others[:_MOST_NAMES]) + (f" and {len(others) - _MOST_NAMES} more" if len(others) > _MOST_NAMES else "")
    return f"{'some' if dropped else 'all'} artifacts stay, as {named} {'has' if len(others) == 1 else 'have'} them too"
