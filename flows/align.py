"""The flow: every stage of a recipe, from the model to the report, each taken from the store or made."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled as cancelled_state

from bnf.plugins import load
from bnf.process import die_with_parent
from evaluation.records import read_json
from evaluation.spending import LEDGER_VARIABLE
from flows.dag.engine_checks import load_checks
from flows.dag.on_policy import BASE
from flows.dag.plan import Plan, make_plan
from flows.dag.preflight import require
from flows.dag.selection import Options, check_pinned
from flows.dag.trainable import groups_problem, memory_problem, model_problem
from flows.errors import RecipeError
from flows.recipe.config import Recipe
from flows.recipe.paths import located
from flows.runs.garbage import using
from flows.runs.home import home_folder
from flows.runs.record import Run, start_run
from flows.service.accelerator import accelerator
from flows.service.cancel import cancellation, was_cancelled
from flows.service.crashed import mark_crashed
from flows.service.keys import service_keys
from tasks.child import Cancelled
from tasks.execute import Children, Execution
from tasks.keys import Ingredients
from tasks.nodes import Node, ancestors, ingredients, model_folder, not_done_again, other_code, with_other_code
from tasks.prefect_task import artifact_key, run_node
from tasks.stages import STAGES
from tasks.store import Artifact


@dataclass(frozen=True)
class Listener:
    """What is called when a run starts, a task starts, goes on or ends, or there is something to say; the terminal shows it."""

    on_run: Callable[[Run], None] = lambda run: None
    on_start: Callable[[Node], None] = lambda node: None
    on_progress: Callable[[Node, int, int, str], None] = lambda node, done, total, note: None
    on_done: Callable[[Node, bool, float], None] = lambda node, cached, seconds: None
    on_message: Callable[[str], None] = lambda text: None


SILENT = Listener()
# What a command hands to the flow that it calls: who listens, and the plan that it has made. Parameters of a flow must be JSON, which
# these two aren't.
LISTENER: contextvars.ContextVar[Listener] = contextvars.ContextVar("bnf_listener", default=SILENT)
PLAN: contextvars.ContextVar[Plan | None] = contextvars.ContextVar("bnf_plan", default=None)


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
        evaluate_run: take the models of this run, and its recipe but for `name`, `evaluation`, `judge` and `spending`, and execute
            evaluation stages alone.
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
        mark_crashed(plan.home)
        return _align(plan)


def _align(plan: Plan) -> str | State[str]:
    listener = LISTENER.get()
    flow_run_id = UUID(str(flow_run.get_id()))
    run = start_run(plan.home, plan.recipe, str(flow_run_id), dataclasses.asdict(plan.options))
    _name(flow_run_id, run, plan)
    listener.on_run(run)
    get_run_logger().info("run %s in %s", run.id, run.folder)
    state, why = "failed", None
    try:
        with cancellation(flow_run_id) as cancelled:
            Runner(plan, run, listener, cancelled, service_keys(plan.recipe)).run()
        state = "completed"
    except Cancelled as error:
        state = "cancelled"
        return cancelled_state(message=str(error))
    except BaseException as error:
        # Ctrl-C, and Prefect's own signal for a termination, are no Exceptions.
        if not isinstance(error, Exception):
            state = "cancelled" if deployment.get_id() and was_cancelled(flow_run_id) else "stopped"
        else:
            why = str(error)
        raise
    finally:
        run.end(state, why)
    _publish(run)
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


@dataclass
class Runner:
    """Runs a plan's nodes one after another and keeps the run's record."""

    plan: Plan
    record: Run
    listener: Listener
    cancelled: Callable[[], bool]
    keys: Mapping[str, str]
    asked: dict[str, str | None] = dataclasses.field(default_factory=dict)

    def run(self) -> None:
        """Take every node's artifact from the store, or make it."""
        listener = self.listener
        children = Children(
            self.record.folder / "logs",
            lambda: accelerator(self.cancelled, lambda: listener.on_message("waiting for other runs' accelerator")),
            self.cancelled,
            {LEDGER_VARIABLE: str(self.record.folder / "spending.jsonl"), **self.keys},
        )
        self.execution = Execution(self.plan.store, children, on_log=lambda node, text: None, on_progress=listener.on_progress)
        self.results: dict[str, Artifact] = dict(self.plan.pinned)
        self.other_code: dict[str, list[str]] = {}
        with _ended(children):
            for node in self.plan.nodes:
                if self.cancelled():
                    raise Cancelled("the run was cancelled")
                if node.id in self.plan.pinned:
                    self._other_code(node, self.plan.pinned[node.id])
                    self._done(node, self.plan.pinned[node.id], cached=True, seconds=0.0)
                else:
                    self._run(node)

    def _run(self, node: Node) -> None:
        node = with_other_code(node, self.other_code)
        inputs = {role: self.results[name] for role, name in node.inputs.items()}
        made_of = ingredients(node, inputs, self.plan.store)
        refresh = node.stage in self.plan.selection.refresh
        found = None if refresh else self.plan.store.find(node.stage, made_of.key())
        problem = self.plan.store.problem(node.stage, made_of.key())
        if problem:
            self.listener.on_message(f"{node.label}: not used, {'fetched' if found else 'made'} anew: {problem}")
        if found is None and node.stage in self.plan.selection.keep:
            found = self.plan.store.same_but_code(made_of)
            if found is None:
                raise RecipeError(
                    f"--keep {node.stage} must find an artifact that differs in code alone, got none after the stages before it "
                    "gave other bits; run without --keep"
                )
            # Under its own key it is a hit like any other.
            made_of = Ingredients(**found.manifest["ingredients"])
            self._other_code(node, found)
        if not refresh and found is None and node.id not in self.plan.selection.allowed:
            raise RecipeError(self.plan.selection.refusal(node))
        if found is None:
            self._check_training(node, inputs)
        open_part = None
        if found is not None and node.id in self.plan.selection.allowed:
            open_part = self.plan.store.open_part(found)
        if open_part:
            self.listener.on_message(f"{node.label}: {open_part}")
        self.record.begin(node, made_of.key())
        self.listener.on_start(node)
        started_s = time.monotonic()
        result = run_node(
            node,
            made_of,
            {role: artifact.as_json() for role, artifact in inputs.items()},
            self.execution,
            refresh=refresh,
            complete=open_part is not None,
            records=self.plan.store.root.parent / "prefect" / "records",
            on_retry=lambda message: self.listener.on_message(f"{node.label}: tried again after: {message}"),
        )
        executed = self.execution.executed
        seconds = executed.get(node.id, time.monotonic() - started_s)
        artifact = self.plan.store.publish(Artifact.from_json(result), replace=refresh or open_part is not None)
        if node.stage == "report":
            # The run's folder shows the report: this machine needs its files.
            self.plan.store.fetch(artifact)
        self._done(node, artifact, cached=node.id not in executed, seconds=round(seconds, 3))
        self._check_engines(node, artifact)

    def _check_engines(self, node: Node, artifact: Artifact) -> None:
        """Refuse what engines would refuse of a model that wasn't on this machine when the run was planned, once it is fetched."""
        if node.stage == "resolve" and "model" not in node.files:
            require(load_checks(self.plan.forecasts.values(), {node.id: model_folder(artifact.path)}))

    def _check_training(self, node: Node, inputs: Mapping[str, Artifact]) -> None:
        """Refuse, before anything is computed for a training, what it would refuse: of the model once it is fetched, of the groups, and
        where this machine's memory doesn't hold both.
        """
        if node.id not in self._for_trainings:
            return
        problem, config = None, self.plan.recipe.train_config()
        model = model_folder(inputs["model"].path) if "model" in inputs and node.inputs["model"] == BASE else None
        groups = self.plan.store.fetch(inputs["data"]) if "data" in node.inputs else None
        if model is not None:
            problem = self._ask("model", lambda: model_problem(self.plan.recipe, model))
        if problem is None and groups is not None:
            problem = self._ask(node.inputs["data"], lambda: groups_problem(config, groups))
        if problem is None and model is not None:
            problem = self._ask(f"memory {groups}", lambda: memory_problem(config, model, groups))
        if problem is not None:
            raise RecipeError(problem)

    @functools.cached_property
    def _for_trainings(self) -> set[str]:
        """The ids of the trainings that may execute, and of all that they need."""
        nodes, allowed = self.plan.nodes, self.plan.selection.allowed
        return ancestors(nodes, [node.id for node in nodes if node.stage == "train" and node.id in allowed])

    def _ask(self, what: str, problem: Callable[[], str | None]) -> str | None:
        """The answer to a question; each is asked only once in a run."""
        if what not in self.asked:
            self.asked[what] = problem()
        return self.asked[what]

    def _done(self, node: Node, artifact: Artifact, *, cached: bool, seconds: float) -> None:
        self.results[node.id] = artifact
        self.record.add(node, artifact, cached=cached, seconds=seconds, other_code=self.other_code.get(node.id, []))
        self.listener.on_done(node, cached, seconds)
        if cached and (said := not_done_again(node, artifact)):
            self.listener.on_message(f"    {said}")
        if artifact.path.exists() and (outcome := load(STAGES, node.stage).outcome(artifact.path)):
            self.listener.on_message(f"    {outcome}")

    def _other_code(self, node: Node, artifact: Artifact) -> None:
        """Remember and say which modules have changed since an artifact was made that is used all the same."""
        modules = other_code(node, self.plan.store.manifest(artifact))
        if modules:
            self.other_code[node.id] = modules
            self.listener.on_message(f"{node.label}: kept, though other code made it ({', '.join(modules)})")


@contextlib.contextmanager
def _ended(children: Children) -> Iterator[None]:
    """End the child processes with the run: in order, or by a kill where the run breaks off."""
    try:
        yield
    except BaseException:
        children.kill()
        raise
    children.close()


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
