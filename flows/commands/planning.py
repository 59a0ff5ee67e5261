"""`bnf plan`: what a run would do, and what its training will take."""

from __future__ import annotations

from collections.abc import Mapping

from flows.dag.completions import COMPLETIONS, asked_completions
from flows.dag.estimate import Asked, estimate_recipe
from flows.dag.estimate_tables import gpu_rows, heading, memory_rows, other_rows
from flows.dag.outlook import Outlook, outlooks
from flows.dag.outlook_tables import outlook_table, outlook_totals
from flows.dag.plan import make_plan
from flows.dag.preflight import HOME, problems, require
from flows.dag.selection import Options
from flows.display import plan_rows, print_json, print_table
from flows.recipe.config import Recipe
from flows.recipe.keys import dotted
from flows.recipe.paths import without_signatures
from flows.runs.home import home_folder
from flows.wording import place


def show_plan(recipe: Recipe, options: Options, *, as_json: bool) -> None:
    """Print what a run would do.

    Raises:
        RecipeError: with the problems for which `run` would refuse it.
    """
    home = home_folder()
    plan = make_plan(home, recipe, options)
    known, takes = plan.forecasts, outlooks(plan)
    if as_json:
        stages = [
            entry.as_json() | ({"takes": takes[name].to_json()} if name in takes else {}) for name, entry in known.items()
        ]
        completions = [one.to_json() for one in asked_completions(known.values())]
        print_json(
            {
                "stages": stages,
                "completions": completions,
                "settings": dotted(without_signatures(recipe).model_dump()),
                "problems": problems(plan.checks),
            }
        )
    else:
        print_table(f"{recipe.name} in {place(home)}", plan_rows(list(known.values())), words=True)
        count = {state: sum(entry.cached is state for entry in known.values()) for state in (True, None, False)}
        print(f"{count[True]} cached, {count[None]} cached if the stage before gives the same bits, {count[False]} to run")
        _show_outlooks(takes)
        for check in plan.checks:
            if check.name == COMPLETIONS or check.is_stale or check.is_said:
                print(f"{check.name}: {check.seen}")
    # A home that can't be written may be looked at; `run` and `doctor` refuse it.
    require(check for check in plan.checks if check.name != HOME)


def _show_outlooks(takes: Mapping[str, Outlook]) -> None:
    """What the tasks that would run take, each as it is known, and in all."""
    title, rows = outlook_table(takes)
    if not rows:
        return
    # A title inside the table would be folded where the table is narrow.
    print(f"\n{title}")
    print_table("", rows, words=True)
    for line in outlook_totals(takes):
        print(line)


def show_estimate(recipe: Recipe, asked: Asked, *, as_json: bool) -> None:
    """Print what a recipe's training will take."""
    found = estimate_recipe(recipe, asked, home_folder())
    if as_json:
        print_json(found.to_json())
        return
    print("\n".join(heading(found)))
    for rows in filter(None, (memory_rows(found), gpu_rows(found), other_rows(found))):
        print()
        print_table("", rows, words=True)
    print("", *(f"assumed: {assumption}" for assumption in found.assumptions), sep="\n")
