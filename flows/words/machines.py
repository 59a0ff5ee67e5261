"""Deployments, workers, and further nodes."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.words.arguments import Debug, Json, Overrides, RecipeArgument, debugging


def deploy(
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="POOL", help="Deploy to this work pool instead of prefect.yaml's.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Create the work pools and the deployments of prefect.yaml, and say what to do next."""
    from flows.service.deploy import deploy

    deploy(pool=pool, debug=debug or debugging())


def worker(
    pool: Annotated[str, typer.Option("--pool", metavar="POOL", help="The work pool whose runs it executes.")] = "bnf-process",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Flow runs at a time.")] = 1,
    healthcheck: Annotated[bool, typer.Option("--with-healthcheck", help="Answer at :8080/health while it polls.")] = False,
    debug: Debug = False,
) -> None:
    """Execute the runs of the deployments on this machine; Ctrl-C ends it and them."""
    from flows.service.worker import serve

    raise SystemExit(serve(pool=pool, limit=limit, healthcheck=healthcheck))


def fetch(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    to: Annotated[
        str, typer.Option("--to", metavar="FOLDER", help="The bundle: a new folder, or an earlier one, which is added to.")
    ] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fetch what a recipe or a sweep reads of hubs and URLs into a folder, for machines without a network (BNF_OFFLINE)."""
    from flows.commands.fetching import fetch_words

    fetch_words(recipe, overrides or (), to, as_json=as_json)


def join(
    stay: Annotated[bool, typer.Option("--stay", help="Go on with the next training, for as long as nobody ends it.")] = False,
    debug: Debug = False,
) -> None:
    """Join this home's next training as one of its nodes (train.num_nodes); ends with it. Its reference pass is joined too."""
    from flows.commands.upkeep import join_training

    raise SystemExit(join_training(stay=stay))
