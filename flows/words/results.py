"""The runs, and what one gave."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.words import completing
from flows.words.arguments import Json, RunName


def runs(as_json: Json = False) -> None:
    """List the runs, newest first: state, age, and the size of what they name."""
    from flows.commands.showing import show_runs

    show_runs(as_json=as_json)


def show(run: RunName, as_json: Json = False) -> None:
    """Show a run: its results, and what each task took."""
    from flows.commands.showing import show_run

    show_run(run, as_json=as_json)


def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN …", autocompletion=completing.runs)], as_json: Json = False
) -> None:
    """Compare runs item by item: paired differences with intervals, and p-values corrected for their number."""
    from flows.commands.comparing import compare_runs

    compare_runs(names, as_json=as_json)


def report(
    run: RunName,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Say where a run's report is, or open it."""
    from flows.commands.showing import show_report

    show_report(run, open_it=open_it, as_json=as_json)
