"""Arguments and options that several commands have."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows.words import completing

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A YAML file, such as flows/recipes/quickstart.yaml.", autocompletion=completing.recipes
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value …]", help="Recipe keys, e.g. train.learning_rate=1e-5.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's own lines.")]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's name or its recipe's, the beginning of one run's alone, or `latest`.",
        autocompletion=completing.runs,
    ),
]


Refresh = Annotated[
    str,
    typer.Option(
        "--refresh",
        metavar="STAGE,…",
        help="Execute these stages although they are cached.",
        autocompletion=completing.stages,
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        "--keep",
        metavar="STAGE,…",
        help="Take these stages' artifacts where they differ in code alone.",
        autocompletion=completing.stages,
    ),
]
Verify = Annotated[bool, typer.Option("--verify", help="Check cached artifacts by content, not by size alone.")]


def debugging() -> bool:
    """Whether `--debug` stands anywhere: before the command, or behind it."""
    return "--debug" in sys.argv


def names(text: str) -> list[str] | None:
    """The names of an option that lists them with commas; None for none."""
    return [name.strip() for name in text.split(",") if name.strip()] or None
