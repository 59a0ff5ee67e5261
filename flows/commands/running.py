"""`bnf run` and `bnf evaluate`: a recipe, or the evaluation stages of a run or a model."""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnf.paths import person_path
from flows.commands.showing import show_results, shown, taken_run
from flows.dag.plan import Plan, make_plan
from flows.dag.preflight import require
from flows.dag.selection import CONVERSATION_KEYS, EVALUATION_SECTIONS, MODELS, Options
from flows.display import Display, print_json
from flows.errors import RecipeError, Stopped
from flows.recipe.config import LATEST, Recipe, load_recipe, make_recipe
from flows.recipe.keys import changed_keys
from flows.recipe.paths import without_signatures
from flows.runs.home import home_folder, set_prefect_environment
from flows.runs.record import RUNNING, Run, all_runs, start_run
from tasks.child import Cancelled
from tasks.home_lock import using


def run_recipe(
    recipe: Recipe,
    options: Options,
    *,
    changed: Mapping[str, object] | None = None,
    as_json: bool = False,
    debug: bool = False,
) -> None:
    """Check a recipe, run its flow with live output, and show what came out of it.

    Args:
        changed: the keys that it sets otherwise than the recipe's file.
    """
    home = home_folder()
    display = Display()
    display.wait("checking the recipe …")
    try:
        plan = make_plan(home, recipe, options, changed)
        require(plan.checks)
    finally:
        display.stop()
    set_prefect_environment(home, debug=debug)
    for found in plan.checks:
        if found.is_cost or found.is_stale or found.is_said:
            display.message(f"{found.name}: {found.seen}")
    # The server may take a while: from here on others see the run, and nothing is dropped from the home.
    with using(home):
        run = start_run(home, plan.recipe, None, dataclasses.asdict(options), plan.changed)
        _go(run, plan, recipe, display)
    if as_json:
        print_json(shown(run))
        return
    show_results(run)


def _go(run: Run, plan: Plan, recipe: Recipe, display: Display) -> None:
    """Start Prefect's server and the flow, and go with it to the run's end."""
    from flows.service.server import prefect_server

    display.wait("starting Prefect …")
    try:
        with prefect_server(plan.home, meanwhile=_import_flow) as url:
            from prefect.exceptions import CancelledRun

            from flows.align import LISTENER, PLAN, RUN, align
            from flows.runner import Listener
            from flows.service.unshown import carry_out

            def started(run: Run) -> None:
                display.stop()
                display.message(
                    f"run {run.id}\n  watch it at {url}/runs/flow-run/{run.record.flow_run_id}\n"
                    f"  from another terminal: bnf watch {run.id}"
                )

            listener = Listener(started, display.start, display.progress, display.done, display.failed, display.message)
            # For this call alone: one after it in the same process has a plan and a run of its own.
            context = contextvars.copy_context()
            context.run(LISTENER.set, listener)
            context.run(PLAN.set, plan)
            context.run(RUN.set, run)
            try:
                context.run(
                    carry_out, lambda: align(without_signatures(recipe), **dataclasses.asdict(plan.options)), display.message
                )
            except CancelledRun as error:
                raise Cancelled("the run was cancelled; the same command goes on from where it was") from error
            finally:
                display.stop()
        display.total()
    except Exception as error:
        how = "cancelled" if isinstance(error, Cancelled) else "failed"
        display.broken_off(how)
        _end(run, how, str(error))
        if run.record.flow_run_id is not None:
            display.message(f"  its logs: bnf ui {run.id}")
        raise
    except BaseException as signal:
        # Ctrl-C, `cli.main`'s answer to SIGTERM, and Prefect's own: whatever the run was about when it came.
        by, code = ("Ctrl-C", 130) if isinstance(signal, KeyboardInterrupt) else ("SIGTERM", 143)
        where = display.broken_off("stopped")
        _end(run, "stopped")
        raise Stopped(f"stopped by {by} {where}; the same command goes on from there", code) from None


def _end(run: Run, state: str, why: str | None = None) -> None:
    """Record how a run ended whose flow didn't come so far as to record it."""
    if run.record.state == RUNNING:
        run.end(state, why)


def _import_flow() -> None:
    import flows.align  # noqa: F401


def evaluate_target(
    target: str, recipe_path: str | None, overrides: Sequence[str], options: Options, *, as_json: bool, debug: bool
) -> None:
    """Evaluate a run's models with its own recipe (or another's evaluation), or any model with a recipe's evaluation."""
    home = home_folder()
    run = _evaluated_run(home, target)
    # A run's models are served as they were trained; of a model by itself only the person knows.
    more = () if run is not None else CONVERSATION_KEYS
    also = f", and for a model by itself {', '.join(more)}" if more else ""
    for override in overrides:
        if override.split(".")[0].split("=")[0] not in ("name", *EVALUATION_SECTIONS, *more):
            raise RecipeError(
                f"evaluate must change keys of {', '.join(EVALUATION_SECTIONS)} alone{also}, got {override!r}; use `bnf run` for the others"
            )
    if run is not None:
        base = run.recipe
        if recipe_path is not None:
            asked = load_recipe(recipe_path)
            base = base.model_copy(update={name: getattr(asked, name) for name in EVALUATION_SECTIONS})
        recipe = make_recipe(base.model_dump(), overrides)
        evaluated = run.id if recipe.train is not None else None
        changed = {**run.record.changed, **changed_keys(recipe, run.recipe)}
        run_recipe(recipe, dataclasses.replace(options, evaluate_run=evaluated), changed=changed, as_json=as_json, debug=debug)
        return
    asked = load_recipe(recipe_path or "flows/recipes/evaluate.yaml")
    values = asked.model_dump() | {"model_name_or_path": target} | dict.fromkeys(("data", "sample", "label", "train"))
    recipe = make_recipe(values, overrides)
    run_recipe(recipe, options, changed=changed_keys(recipe, asked), as_json=as_json, debug=debug)


def _evaluated_run(home: Path, target: str) -> Run | None:
    """The run whose models are to be evaluated; None where the target is a model: a folder, or a hub id, which has a slash."""
    if person_path(target).exists() or "/" in target:
        if target in {name for run in all_runs(home) for name in (run.id, run.record.recipe, LATEST)}:
            raise RecipeError(
                f"RUN|MODEL must be one of both, got {target!r}, which is a run and a folder here; write ./{target} for the folder"
            )
        return None
    runs = all_runs(home)
    if target != LATEST and not any(target == run.record.recipe or run.id.startswith(target) for run in runs):
        newest = ", ".join(run.id for run in runs[:3]) or "none yet"
        raise RecipeError(
            f"RUN must be a run of {home}, or MODEL a folder or a hub id such as owner/name, got {target!r}; the newest runs: {newest}"
        )
    return taken_run(home, target, MODELS)
