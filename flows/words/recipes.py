"""Write a recipe, and the schema of recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.words import completing
from flows.words.arguments import Debug


def init(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="The file to write, FILE.yaml; left out: called after the data.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="PATH", help="Preferences: a file, folder, URL or hub id.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="NAME", help="How they are read; left out: as they look.", autocompletion=completing.sources
        ),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", metavar="NAME", help="Of a folder or hub's set with several.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="A folder or a hub id.")] = None,
    objective: Annotated[
        str | None,
        typer.Option("--objective", metavar="NAME", help="Such as bnf, dpo or kto.", autocompletion=completing.objectives),
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="NAME", help="vllm or transformers.", autocompletion=completing.engines)
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(
            "--benchmarks",
            metavar="NAME,…",
            help="Such as gsm8k,mmlu_redux; none for no benchmark.",
            autocompletion=completing.benchmarks,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge", metavar="MODEL", help="A folder, a hub id, or a model's name at an endpoint; none for no judge."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many prompts.")] = None,
    system_prompt: Annotated[
        str | None, typer.Option("--system-prompt", metavar="TEXT", help="Of conversations without a system message.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a first recipe for your data: asks, or with any option takes the options and asks nothing."""
    from flows.commands.initializing import Asked, init_recipe

    init_recipe(Asked(recipe, data, source, split, model, objective, engine, benchmarks, judge, limit, system_prompt))


def schema(
    sweep: Annotated[bool, typer.Option("--sweep", help="That of sweeps.")] = False,
    debug: Debug = False,
) -> None:
    """Print the JSON schema of recipes, from which editors complete them; a recipe of `bnf init` names its file."""
    from flows.recipe.schema import as_text, schema, sweep_schema

    print(as_text(sweep_schema() if sweep else schema()), end="")
