"""`bnf cancel`, `gc` and `join`: a run's end, the room that runs take, and help with a training."""

from __future__ import annotations

import os
import sys
import time

from flows.commands.showing import taken_run_or_sweep
from flows.commands.watching import known_flow_run
from flows.display import print_json, print_table, size
from flows.errors import RecipeError
from flows.runs.garbage import collect
from flows.runs.home import home_folder, set_prefect_environment
from flows.runs.record import RUNNING
from flows.wording import counted, place


def cancel_run(name: str, *, as_json: bool) -> None:
    """Ask a run or a sweep to end, and wait until it has."""
    home = home_folder()
    found = taken_run_or_sweep(home, name)
    if found.state != RUNNING:
        raise RecipeError(f"RUN must be at work to be cancelled, got {found.id}, which is {found.state}; see `bnf runs`")
    set_prefect_environment(home)
    from flows.service.server import prefect_server

    with prefect_server(home):
        from prefect.exceptions import ObjectNotFound

        from flows.service.cancel import cancel

        try:
            cancel(known_flow_run(found))
        except ObjectNotFound:
            raise RecipeError(
                f"RUN must be known to the Prefect server, got {found.id}, which {os.environ['PREFECT_API_URL']} has not; set "
                "PREFECT_API_URL as it was when the run was started"
            ) from None
        while found.state == RUNNING:
            time.sleep(0.2)
            found = found.read_again()
    if as_json:
        print_json({"run": found.id, "state": found.state})
    else:
        print(f"{found.id}  {found.state}")


def collect_garbage(*, dry_run: bool, as_json: bool) -> None:
    """Drop what no run names, and print it."""
    home = home_folder()
    dropped = collect(home, dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "bytes": sum(entry["bytes"] for entry in dropped), "dropped": dropped})
        return
    print_table("", [{**entry, "bytes": size(entry["bytes"])} for entry in dropped], words=True)
    verb = "would be dropped from" if dry_run else "dropped from"
    print(
        f"{counted(len(dropped), 'folder')}, {size(sum(entry['bytes'] for entry in dropped))}, {verb} {place(home / 'artifacts')}"
    )


def join_training(*, stay: bool) -> int:
    """Work as a further node on what the runs of this home launch on several nodes; the exit code."""
    from bnf.parallel.join import calls_in, join

    artifacts = home_folder() / "artifacts"
    print(f"join: waiting for a training in {artifacts}; Ctrl-C ends it", file=sys.stderr, flush=True)
    return join(lambda: calls_in(artifacts.glob("*/*.work")), stay=stay)
