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
from flows.runs.owner import owner_of
from flows.runs.record import RUNNING, Run
from flows.runs.sweeps import SweepFolder
from flows.wording import counted, place

# A run that is asked to end looks every two seconds, and gives its tasks ten.
_END_S = 60.0
# One that is starting waits for Prefect's server, which may take three minutes.
_START_S = 240.0


def cancel_run(name: str, *, as_json: bool) -> None:
    """Ask a run or a sweep to end, and wait until it has.

    Raises:
        RuntimeError: it doesn't end. A process that is stopped hears nothing.
    """
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
            cancel(known_flow_run(found, _START_S))
        except TimeoutError:
            raise RuntimeError(_goes_on(found, f"begin within {_START_S:.0f} s to be cancelled")) from None
        except ObjectNotFound:
            raise RecipeError(
                f"RUN must be known to the Prefect server, got {found.id}, which {os.environ['PREFECT_API_URL']} has not; set "
                "PREFECT_API_URL as it was when the run was started"
            ) from None
        deadline_s = time.monotonic() + _END_S
        while found.state == RUNNING:
            if time.monotonic() > deadline_s:
                raise RuntimeError(_goes_on(found, f"end within {_END_S:.0f} s of being cancelled"))
            time.sleep(0.2)
            found = found.read_again()
    if as_json:
        print_json({"run": found.id, "state": found.state})
    else:
        print(f"{found.id}  {found.state}")


def _goes_on(found: Run | SweepFolder, must: str) -> str:
    """What to say, and to do, of a run that doesn't end though it must."""
    owner = owner_of(found.folder)
    told = f"RUN must {must}, got {found.id}, which is at work still"
    after = "the same command then goes on from where it was"
    if owner is None or not owner.is_here:
        where = "another machine" if owner is None else owner.host
        return f"{told}: its process is on {where}; end it there, and {after}"
    if owner.is_stopped:
        return (
            f"{told}: its process {owner.pid} is stopped, and hears nothing; `kill -CONT {owner.pid}` lets it end, `kill -9 {owner.pid}` "
            f"ends it at once, and {after}"
        )
    return (
        f"{told}: its process {owner.pid} may ask another Prefect server, one that is gone; `kill {owner.pid}` ends it in order, and "
        f"{after}"
    )


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
