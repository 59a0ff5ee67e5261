"""The flow: every stage of a recipe, from the model to the report, each taken from the store or made."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled as cancelled_state

from evaluation.records import read_json
from evaluation.spending import LEDGER_VARIABLE
from flows.dag.graph import build
from flows.dag.on_policy import BASE
from flows.dag.selection import Options, Selection, evaluated_recipe, pinned_artifacts, select
from flows.dag.trainable import TRAINING_STAGES, groups_problem, model_problem
from flows.errors import RecipeError
from flows.recipe.config import Recipe
from flows.recipe.paths import located
from flows.runs.garbage import using
from flows.runs.home import home_folder, open_store
from flows.runs.record import Run, last_artifacts, start_run
from flows.service.accelerator import accelerator
from flows.service.cancel import cancellation, was_cancelled
from flows.service.crashed import mark_crashed
from flows.service.keys import service_keys
from flows.service.worker import begin
from tasks.child import Cancelled
from tasks.execute import Children, Execution, stage_module
from tasks.keys import Ingredients
from tasks.nodes import Node, ingredients, input_path, not_done_again, other_code, with_other_code
from tasks.prefect_task import artifact_key, run_node
from tasks.store import Artifact, Store

# What is computed on the way to a policy.
ALIGNMENT_STAGES = ("sample", "prepare", *TRAINING_STAGES)


@dataclass(frozen=True)
class Listener:
    """Who is told what a run does, besides Prefect: the terminal."""

    on_run: Callable[[Run], None] = lambda run: None
    on_start: Callable[[Node], None] = lambda node: None
    on_progress: Callable[[Node, int, int, str], None] = lambda node, done, total, note: None
    on_done: Callable[[Node, bool, float], None] = lambda node, cached, seconds: None
    on_message: Callable[[str], None] = lambda text: None


SILENT = Listener()
LISTENER: contextvars.ContextVar[Listener] = contextvars.ContextVar("bnf_listener", default=SILENT)


@flow(name="align", flow_run_name="{recipe.name}", validate_parameters=True)
def align(
    recipe: Recipe,
    only: list[str] | None = None,
    from_stage: str | None = None,
    refresh: list[str] | None = None,
    keep: list[str] | None = None,
    verify: bool = False,
    evaluate_run: str | None = None,
) -> str | State[Any]:
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
    # The paths of a form are relative to where its worker runs.
    recipe = located(recipe)
    home, options = home_folder(), Options(only, from_stage, refresh, keep, verify, evaluate_run)
    if deployment.get_id():
        begin(recipe, options)
    with using(home):
        mark_crashed(home)
        return _align(home, recipe, options)


def _align(home: Path, recipe: Recipe, options: Options) -> str | State[Any]:
    listener, evaluate_run = LISTENER.get(), options.evaluate_run
    recipe = evaluated_recipe(home, recipe, evaluate_run)
    store = open_store(home, verify=options.verify)
    nodes = build(recipe)
    selection = select(nodes, options)
    pinned = pinned_artifacts(home, evaluate_run, selection, store) if evaluate_run else {}
    selection.check(nodes, store, last_artifacts(home, recipe), pinned)
    flow_run_id = UUID(str(flow_run.get_id()))
    run = start_run(home, recipe, {"flow_run_id": str(flow_run_id), "overrides": dataclasses.asdict(options)})
    _name(flow_run_id, run, recipe, evaluate_run)
    listener.on_run(run)
    get_run_logger().info("run %s in %s", run.id, run.folder)
    state, why = "failed", None
    try:
        with cancellation(flow_run_id) as cancelled:
            runner = Runner(selection, pinned, store, run, listener, cancelled, service_keys(recipe), recipe)
            runner.run([node for node in nodes if node.id in selection.needed])
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


def _name(flow_run_id: UUID, run: Run, recipe: Recipe, evaluate_run: str | None) -> None:
    """The run's own name and its tags on the flow run. Tags of the flow are no tags of its tasks, each of which would cost time."""
    model = recipe.model_name_or_path.rstrip("/").rsplit("/", 1)[-1]
    tags = [recipe.name, model]
    if recipe.train is not None:
        tags.append(recipe.train["objective"])
    if evaluate_run or recipe.train is None:
        tags.append("evaluation")
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(flow_run_id).tags
        client.update_flow_run(flow_run_id, name=run.id, tags=sorted({*known, *tags}))


@dataclass
class Runner:
    """Runs nodes one after another and keeps the run's record."""

    selection: Selection
    pinned: Mapping[str, Artifact]
    store: Store
    run_: Run
    listener: Listener
    cancelled: Callable[[], bool]
    keys: Mapping[str, str]
    recipe: Recipe
    asked: dict[str, str | None] = dataclasses.field(default_factory=dict)

    def run(self, nodes: Sequence[Node]) -> None:
        """Take every node's artifact from the store, or make it."""
        listener = self.listener
        children = Children(
            self.run_.folder / "logs",
            lambda: accelerator(self.cancelled, lambda: listener.on_message("waiting for other runs' accelerator")),
            self.cancelled,
            {LEDGER_VARIABLE: str(self.run_.folder / "spending.jsonl"), **self.keys},
        )
        self.execution = Execution(self.store, children, on_log=lambda node, text: None, on_progress=listener.on_progress)
        self.results: dict[str, Artifact] = dict(self.pinned)
        self.other_code: dict[str, list[str]] = {}
        with _ended(children):
            for node in nodes:
                if self.cancelled():
                    raise Cancelled("the run was cancelled")
                if node.id in self.pinned:
                    self._other_code(node, self.pinned[node.id])
                    self._done(node, self.pinned[node.id], cached=True, seconds=0.0)
                else:
                    self._run(node)

    def _run(self, node: Node) -> None:
        node = with_other_code(node, self.other_code)
        inputs = {role: self.results[name] for role, name in node.inputs.items()}
        made_of = ingredients(node, inputs, self.store)
        refresh = node.stage in self.selection.refresh
        found = None if refresh else self.store.find(node.stage, made_of.key())
        problem = self.store.problem(node.stage, made_of.key())
        if problem:
            self.listener.on_message(f"{node.label}: not used, {'fetched' if found else 'made'} anew: {problem}")
        if found is None and node.stage in self.selection.keep:
            found = self.store.same_but_code(made_of)
            if found is None:
                raise RecipeError(
                    f"--keep {node.stage} must find an artifact that differs in code alone, got none after the stages before it "
                    "gave other bits; run without --keep"
                )
            # Under its own key it is a hit like any other.
            made_of = Ingredients(**found.manifest["ingredients"])
            self._other_code(node, found)
        if not refresh and found is None and node.id not in self.selection.allowed:
            raise RecipeError(self.selection.refusal(node))
        if found is None:
            self._check_training(node, inputs)
        open_part = None
        if found is not None and node.id in self.selection.allowed:
            open_part = self.store.open_part(found)
        if open_part:
            self.listener.on_message(f"{node.label}: {open_part}")
        self.run_.begin(node, made_of.key())
        self.listener.on_start(node)
        started_s = time.monotonic()
        result = run_node(
            node,
            made_of,
            {role: artifact.as_json() for role, artifact in inputs.items()},
            self.execution,
            refresh=refresh,
            complete=open_part is not None,
            records=self.store.root.parent / "prefect" / "records",
            on_retry=lambda message: self.listener.on_message(f"{node.label}: tried again after: {message}"),
        )
        executed = self.execution.executed
        seconds = executed.get(node.id, time.monotonic() - started_s)
        artifact = self.store.publish(Artifact.from_json(result), replace=refresh or open_part is not None)
        if node.stage == "report":
            # The run's folder shows the report: this machine needs its files.
            self.store.fetch(artifact)
        self._done(node, artifact, cached=node.id not in executed, seconds=round(seconds, 3))

    def _check_training(self, node: Node, inputs: Mapping[str, Artifact]) -> None:
        """Before anything is computed for a training: what it would refuse of the model, once that is fetched, and of the groups."""
        if node.stage not in ALIGNMENT_STAGES or not any(name.split("/")[0] == "train" for name in self.selection.allowed):
            return
        problem = None
        if "model" in inputs and node.inputs["model"] == BASE:
            problem = self._ask("model", lambda: model_problem(self.recipe, input_path("model", inputs["model"].path)))
        if problem is None and node.stage in TRAINING_STAGES:
            folder = self.store.fetch(inputs["data"])
            problem = self._ask(node.inputs["data"], lambda: groups_problem(self.recipe.train_config(), folder))
        if problem is not None:
            raise RecipeError(problem)

    def _ask(self, what: str, problem: Callable[[], str | None]) -> str | None:
        """Each thing is asked about once in a run."""
        if what not in self.asked:
            self.asked[what] = problem()
        return self.asked[what]

    def _done(self, node: Node, artifact: Artifact, *, cached: bool, seconds: float) -> None:
        self.results[node.id] = artifact
        self.run_.add(node, artifact, cached=cached, seconds=seconds, other_code=self.other_code.get(node.id, []))
        self.listener.on_done(node, cached, seconds)
        if cached and (said := not_done_again(node, artifact)):
            self.listener.on_message(f"    {said}")
        outcome = getattr(stage_module(node), "outcome", None)
        if outcome is not None and artifact.path.exists():
            self.listener.on_message(f"    {outcome(artifact.path)}")

    def _other_code(self, node: Node, artifact: Artifact) -> None:
        """Remember and say which modules have changed since an artifact was made that is used all the same."""
        modules = other_code(node, self.store.manifest(artifact))
        if modules:
            self.other_code[node.id] = modules
            self.listener.on_message(f"{node.label}: kept, though other code made it ({', '.join(modules)})")


@contextlib.contextmanager
def _ended(children: Children) -> Iterator[None]:
    """No child process outlives the run: it is closed in order, and killed where the run breaks off."""
    try:
        yield
    except BaseException:
        children.kill()
        raise
    children.close()


def _publish(run: Run) -> None:
    """The results and the report's place on the flow run's page in the UI."""
    if not (run.folder / "summary.json").exists():
        return
    from evaluation.report.summary import table_rows

    summary = read_json(run.folder / "summary.json")
    rows = table_rows(summary)
    key = artifact_key(run.record["recipe"])
    if rows:
        create_table_artifact(rows, key=f"{key}-results", description=f"Results of {run.id}")
    report = run.folder / "report.html"
    create_link_artifact(report.as_uri(), link_text=f"report of {run.id}", key=f"{key}-report", description=str(report))
