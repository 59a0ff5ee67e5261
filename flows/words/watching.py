"""Follow a run, and look at its page in the UI."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.words import completing
from flows.words.arguments import Debug, RunName, debugging


def watch(run: RunName, debug: Debug = False) -> None:
    """Follow a run of another terminal or of a worker, or a sweep, until it ends; Ctrl-C leaves the run alone."""
    from flows.commands.watching import watch_run

    raise SystemExit(watch_run(run))


def ui(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="Open this run's page; where there is no display, its address is printed.",
            autocompletion=completing.runs,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Start the Prefect UI on this home's runs, and open a run's page there; Ctrl-C ends it."""
    from flows.commands.watching import serve_ui

    serve_ui(run, debug=debug or debugging())
