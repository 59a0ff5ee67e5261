"""Use a run's policy: export it, talk with it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from flows.words.arguments import Debug, Json, RunName


class Which(StrEnum):
    base = "base"
    aligned = "aligned"
    both = "both"


def export(
    run: RunName,
    to: Annotated[str, typer.Option("--to", metavar="FOLDER", help="A folder that isn't there yet, or is empty.")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="The LoRA adapter alone, instead of the policy with it merged.")
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option("--push-to-hub", metavar="ID", help="Also push the folder to the hub; a new model is private."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy a run's policy into a folder of its own, with a model card and the recipe."""
    from flows.commands.exporting import export

    export(run, to, adapter=adapter, hub_id=push_to_hub, as_json=as_json)


def chat(
    run: RunName,
    model: Annotated[Which, typer.Option("--model", help="Who answers.")] = Which.both,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="A system prompt to begin with; left out: the recipe's.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Talk with a run's base and aligned model; /system TEXT, /reset, /undo and /quit are commands."""
    from flows.commands.chatting import chat

    chat(run, model.value, system)
