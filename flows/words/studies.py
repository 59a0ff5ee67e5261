"""Studies of the objectives that need no language model."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.words.arguments import Debug, Json


def study(
    name: Annotated[
        str,
        typer.Argument(help="bandit: a policy over 100 tokens, of which one is best; length: one that decides when to stop."),
    ],
    write_page: Annotated[
        bool, typer.Option("--write-page", help="Write its page and figure into docs/results and docs/images.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a study of the objectives themselves, in a few minutes and without a language model."""
    from flows.commands.studying import study as run

    run(name, write_page=write_page, as_json=as_json)
