"""Run a recipe or a sweep, evaluate a model, plan."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.words import completing
from flows.words.arguments import Debug, Json, Keep, Overrides, RecipeArgument, Refresh, Verify, debugging, names


def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    only: Annotated[
        str,
        typer.Option(
            "--only",
            metavar="STAGE,…",
            help="Only these stages may execute; others must be cached.",
            autocompletion=completing.stages,
        ),
    ] = "",
    from_stage: Annotated[
        str,
        typer.Option(
            "--from", metavar="STAGE", help="Only this stage and later ones may execute.", autocompletion=completing.stages
        ),
    ] = "",
    refresh: Refresh = "",
    keep: Keep = "",
    verify: Verify = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a recipe: every stage that is not cached, up to the report."""
    from flows.commands.running import run_recipe
    from flows.dag.selection import Options
    from flows.recipe.config import load_recipe
    from flows.recipe.keys import keys_set

    options = Options(names(only), from_stage or None, names(refresh), names(keep), verify)
    loaded = load_recipe(recipe, overrides or ())
    changed = keys_set(recipe, overrides or (), loaded)
    run_recipe(loaded, options, changed=changed, as_json=as_json, debug=debug or debugging())


def evaluate(
    target: Annotated[
        str, typer.Argument(metavar="RUN|MODEL", help="A run, or a model's folder or hub id.", autocompletion=completing.runs)
    ],
    recipe_and_overrides: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [key=value …]")] = None,
    refresh: Refresh = "",
    keep: Keep = "",
    verify: Verify = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the evaluation stages alone: of a run's models, or of any model."""
    from flows.commands.running import evaluate_target
    from flows.dag.selection import Options

    words = recipe_and_overrides or []
    recipe = next((word for word in words[:1] if "=" not in word), None)
    options = Options(refresh=names(refresh), keep=names(keep), verify=verify)
    evaluate_target(target, recipe, words[1:] if recipe else words, options, as_json=as_json, debug=debug or debugging())


def sweep(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A sweep's YAML file, such as flows/recipes/studies/objectives.yaml.",
            autocompletion=completing.recipes,
        ),
    ],
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a recipe with many settings and seeds, choose settings on the dev set, and compare: what is complete is not run again."""
    from flows.commands.sweeping import run_sweep

    raise SystemExit(run_sweep(file, overrides or (), as_json=as_json, debug=debug or debugging()))


def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    keep: Keep = "",
    verify: Verify = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what the training will take: memory, disk, steps, hours. Needs no weights.")
    ] = False,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="With --estimate: a GPU such as H100, or cpu.")
    ] = None,
    model_config: Annotated[
        str | None, typer.Option("--model-config", metavar="FILE", help="With --estimate: the model's config.json.")
    ] = None,
    groups: Annotated[
        int | None, typer.Option("--groups", min=1, help="With --estimate: how many prompt groups, where none are prepared.")
    ] = None,
    group_tokens: Annotated[
        int | None, typer.Option("--group-tokens", min=3, help="With --estimate: the tokens of one, prompt and completions.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a run or a sweep would do: each task cached or to run, and what changed. Runs nothing."""
    from flows.commands.planning import show_estimate, show_plan
    from flows.commands.sweep_planning import show_sweep_plan
    from flows.dag.estimate import Asked
    from flows.dag.selection import Options
    from flows.errors import RecipeError
    from flows.recipe.config import load_recipe
    from flows.recipe.sweep_file import is_sweep

    of_estimate = {"--gpu": gpu, "--model-config": model_config, "--groups": groups, "--group-tokens": group_tokens}
    of_plan = {"--keep": keep, "--verify": verify}
    for option, value in (of_plan if estimate else of_estimate).items():
        if value:
            rule, remedy = ("without", "leave one of them out") if estimate else ("beside", "add --estimate")
            raise RecipeError(f"{option} must stand {rule} --estimate, got {value!r}; {remedy}")
    if is_sweep(recipe):
        if given := [option for option, value in {"--estimate": estimate, **of_plan}.items() if value]:
            raise RecipeError(f"{given[0]} must stand with a recipe, got it with the sweep {recipe}; leave it out")
        show_sweep_plan(recipe, overrides or (), as_json=as_json)
        return
    loaded = load_recipe(recipe, overrides or ())
    if estimate:
        show_estimate(loaded, Asked(model_config, gpu, groups, group_tokens), as_json=as_json)
    else:
        show_plan(loaded, Options(keep=names(keep), verify=verify), as_json=as_json)
