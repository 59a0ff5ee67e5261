"""The runs, and what one gave."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.errors import RecipeError
from flows.words import completing
from flows.words.arguments import Debug, Json, RunName


def runs(
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="COLUMN=TEXT",
            help="Only runs with the text in run, state, recipe, sweep, objective, model or changed.",
        ),
    ] = None,
    sort: Annotated[str, typer.Option("--sort", metavar="COLUMN", help="By age, took, result, dev or size.")] = "age",
    every: Annotated[bool, typer.Option("--all", help="Also runs that only repeat another one from the cache.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the runs, newest first: what each trained, what it changed, and its result."""
    from flows.commands.listing import show_runs

    show_runs(filters=filters or (), sort=sort, every=every, as_json=as_json)


def rm(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN …", help="Runs, named as in `bnf show`.", autocompletion=completing.runs),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and drop nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Drop runs, with the artifacts that no other run names."""
    from flows.commands.listing import remove_runs

    remove_runs(names, dry_run=dry_run, yes=yes, as_json=as_json)


def show(
    run: RunName,
    items: Annotated[
        str | None,
        typer.Option(
            "--items",
            metavar="BENCHMARK",
            help="The items of a benchmark: question, right answer, and what each model made of them.",
            autocompletion=completing.benchmarks,
        ),
    ] = None,
    which: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="KIND",
            help="Only items that are 'wrong→right' (or 'wrong->right'), 'right→wrong', changed, wrong, right or no-answer; of two "
            "models the last three are the aligned one's.",
        ),
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", help="Only items with the text in question, answer or completion.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="At most so many items: 10, and with --json all.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a run: its results, and what each task took; or the items of a benchmark."""
    if items is not None:
        from flows.commands.items import show_items

        show_items(run, items, filter=which, search=search, limit=limit, as_json=as_json)
        return
    for name, value in (("--filter", which), ("--search", search), ("--limit", limit)):
        if value is not None:
            raise RecipeError(f"{name} must stand with --items, got it alone; add --items BENCHMARK")
    from flows.commands.showing import show_run

    show_run(run, as_json=as_json)


def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN …", autocompletion=completing.runs)],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare runs item by item: paired differences with intervals, and p-values corrected for their number."""
    from flows.commands.comparing import compare_runs

    compare_runs(names, as_json=as_json)


def report(
    run: RunName,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say where a run's report is, or open it."""
    from flows.commands.showing import show_report

    show_report(run, open_it=open_it, as_json=as_json)
