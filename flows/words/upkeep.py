"""End a run, make room, check the machine."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.words import completing
from flows.words.arguments import Debug, Json, Overrides, RunName


def cancel(run: RunName, as_json: Json = False, debug: Debug = False) -> None:
    """End a run or a sweep that is at work, as the UI's cancel does; the same command goes on from where it was."""
    from flows.commands.upkeep import cancel_run

    cancel_run(run, as_json=as_json)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and drop nothing.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Drop artifacts and partial work that no run names. Delete a run's folder to let go of what only it names."""
    from flows.commands.upkeep import collect_garbage

    collect_garbage(dry_run=dry_run, as_json=as_json)


def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]", help="Also check everything that this recipe needs.", autocompletion=completing.recipes
        ),
    ] = None,
    overrides: Overrides = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check that it works without a network.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check the machine, the installation, and a recipe."""
    from flows.commands.doctor import diagnose

    diagnose(recipe, overrides or (), offline=offline, as_json=as_json)
