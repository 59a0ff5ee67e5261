"""Studies of the objectives, with and without a language model."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.words import completing
from flows.words.arguments import Debug, Json, Overrides, debugging


def study(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="bandit and length need no language model, the others are sweeps in flows/recipes/studies; left out: lists all.",
            autocompletion=completing.studies,
        ),
    ] = None,
    overrides: Overrides = None,
    write_page: Annotated[
        bool, typer.Option("--write-page", help="Write its page and figure into docs/results and docs/images.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a study of the objectives and show what it found: what is complete is not run again."""
    from flows.commands.studying import study as run

    code = run(name, overrides or (), write_page=write_page, as_json=as_json, debug=debug or debugging())
    if code:
        raise SystemExit(code)
