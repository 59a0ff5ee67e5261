"""The flow: every stage of a recipe, from the model to the report, each taken from the store or made."""

from __future__ import annotations

import contextvars
import dataclasses
import os
from uuid import UUID

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled as cancelled_state

from bnf.process import die_with_parent
from evaluation.records import read_json
from flows.dag.plan import Plan, make_plan
from flows.dag.preflight import require
from flows.dag.selection import Options, check_pinned
from flows.recipe.config import Recipe
from flows.recipe.paths import located
from flows.runner import SILENT, Listener, Runner
from flows.runs.home import home_folder
from flows.runs.record import Run, start_run
from flows.service.attaching import attach_results
from flows.service.cancel import cancellation, was_cancelled
from flows.service.crashed import mark_crashed
from flows.service.keys import service_keys
from flows.service.sharing import WHOLE, Share
from flows.service.unshown import OUTCOME, Outcome, Unshown
from tasks.child import Cancelled
from tasks.home_lock import using
from tasks.prefect_task import artifact_key

# What a command hands to the flow that it calls: who listens, the plan that it has made, the run that it has begun, and what the run has of
# the machine. Parameters of a flow must be JSON, which these aren't.
LISTENER: contextvars.ContextVar[Listener] = contextvars.ContextVar("bnf_listener", default=SILENT)
PLAN: contextvars.ContextVar[Plan | None] = contextvars.ContextVar("bnf_plan", default=None)
RUN: contextvars.ContextVar[Run | None] = contextvars.ContextVar("bnf_run", default=None)
SHARE: contextvars.ContextVar[Share] = contextvars.ContextVar("bnf_share", default=WHOLE)


@flow(name="align", flow_run_name="{recipe.name}", validate_parameters=True)
def align(
    recipe: Recipe,
    only: list[str] | None = None,
    from_stage: str | None = None,
    refresh: list[str] | None = None,
    keep: list[str] | None = None,
    verify: bool = False,
    evaluate_run: str | None = None,
) -> str | State[str]:
    """Run a recipe's stages and return the run's name.

    Args:
        recipe: what to run.
        only: the stages that may execute; what they need besides must be cached.
        from_stage: the first stage that may execute.
        refresh: stages that execute although they are cached.
        keep: stages whose artifacts are taken where they differ in code alone.
        verify: compare artifacts with their manifests by content, not by size alone.
        evaluate_run: take the models of this run, and its recipe but for `name`, `evaluation`, `judge`, `spending`, `resources` and `ray`,
            and execute evaluation stages alone.
    """
    if deployment.get_id():
        die_with_parent(os.getppid())
    plan = PLAN.get()
    if plan is None:
        # The paths of a form are relative to where its worker runs.
        plan = make_plan(home_folder(), located(recipe), Options(only, from_stage, refresh, keep, verify, evaluate_run))
        require(plan.checks)
    with using(plan.home):
        if plan.options.evaluate_run:
            # From here on nothing is dropped from the home; since the plan was made something may have been.
            check_pinned(plan.options.evaluate_run, plan.pinned, plan.store)
        # A worker, which calls the flow by a deployment, reads no outcome.
        outcome = OUTCOME.get() or Outcome(Unshown(LISTENER.get().on_message))
        with outcome.unshown.left_out():
            mark_crashed(plan.home)
        return _align(plan, outcome)


def _align(plan: Plan, outcome: Outcome) -> str | State[str]:
    listener, share = LISTENER.get(), SHARE.get()
    flow_run_id = UUID(str(flow_run.get_id()))
    run = RUN.get() or start_run(plan.home, plan.recipe, None, dataclasses.asdict(plan.options), plan.changed)
    run.known_as(str(flow_run_id))
    with outcome.unshown.left_out():
        _name(flow_run_id, run, plan)
    listener.on_run(run)
    get_run_logger().info("run %s in %s", run.id, run.folder)
    for name, artifact in plan.pinned.items():
        # It has no task run, whose log would say so.
        get_run_logger().info("%s is that of run %s: %s", name, plan.options.evaluate_run, artifact.path)
    # Where another signal comes before a line below says how the run ended.
    state, why = "stopped", None
    try:
        with cancellation(flow_run_id) as cancelled:
            keys = service_keys(plan.recipe)
            Runner(plan, run, listener, lambda: cancelled() or share.stopped(), keys, share, outcome.unshown).run()
        state = "completed"
    except Cancelled as error:
        outcome.error = error
        state = "stopped" if share.stopped() and not share.cancelled() else "cancelled"
        return cancelled_state(message=str(error))
    except Exception as error:
        state, why, outcome.error = "failed", str(error), error
        raise
    except BaseException as error:
        # Ctrl-C, or Prefect's own signal for a termination.
        outcome.error = error
        if deployment.get_id() and was_cancelled(flow_run_id):
            state = "cancelled"
        raise
    finally:
        try:
            run.end(state, why)
        except OSError as error:
            if outcome.error is None:
                raise
            # What ended the run is raised.
            listener.on_message(str(error))
    outcome.run = run.id
    with outcome.unshown.left_out():
        _publish(run)
    attach_results(run, listener.on_message)
    return run.id


def _name(flow_run_id: UUID, run: Run, plan: Plan) -> None:
    """Give the flow run the run's name, and its tags. The flow's tags are not its tasks', each of which would cost time."""
    recipe = plan.recipe
    model = recipe.model_name_or_path.rstrip("/").rsplit("/", 1)[-1]
    tags = [recipe.name, model]
    if recipe.train is not None:
        tags.append(recipe.train_config().objective)
    if plan.options.evaluate_run or recipe.train is None:
        tags.append("evaluation")
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(flow_run_id).tags
        client.update_flow_run(flow_run_id, name=run.id, tags=sorted({*known, *tags}))


def _publish(run: Run) -> None:
    """Show the results and the report's place on the flow run's page in the UI."""
    if not (run.folder / "summary.json").exists():
        return
    from evaluation.report.summary import table_rows

    summary = read_json(run.folder / "summary.json")
    rows = table_rows(summary)
    key = artifact_key(run.record.recipe)
    if rows:
        create_table_artifact(rows, key=f"{key}-results", description=f"Results of {run.id}")
    report = run.folder / "report.html"
    create_link_artifact(report.as_uri(), link_text=f"report of {run.id}", key=f"{key}-report", description=str(report))
