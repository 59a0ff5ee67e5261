"""The flow: every stage of a recipe, from the model to the report, each taken from the store or made."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.runtime import flow_run

from flows.config import Recipe
from flows.errors import RecipeError
from flows.graph import build
from flows.home import home_folder
from flows.runs import Run, find_run, last_artifacts, start_run
from flows.selection import Selection, select
from tasks.execute import Children, Execution
from tasks.nodes import Node, ingredients
from tasks.prefect_task import run_node
from tasks.store import Artifact, Store, damage, read_json


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
    evaluate_run: str | None = None,
) -> str:
    """Run a recipe's stages and return the run's name.

    Args:
        recipe: what to run.
        only: the stages that may execute; what they need besides must be cached.
        from_stage: the first stage that may execute.
        refresh: stages that execute although they are cached.
        evaluate_run: take the model of this run as it is and execute evaluation stages alone.
    """
    home, listener = home_folder(), LISTENER.get()
    store = Store(home / "artifacts")
    nodes = build(recipe)
    selection = select(nodes, only=only, from_stage=from_stage, refresh=refresh, evaluate_run=evaluate_run)
    pinned = _pinned(home, evaluate_run, selection) if evaluate_run else {}
    selection.check(nodes, store, last_artifacts(home, recipe), pinned)
    about = {
        "flow_run_id": str(flow_run.get_id()),
        "overrides": {"only": only, "from": from_stage, "refresh": refresh, "evaluate": evaluate_run},
    }
    run = start_run(home, recipe, about)
    listener.on_run(run)
    get_run_logger().info("run %s in %s", run.id, run.folder)
    state = "failed"
    try:
        _run_nodes([node for node in nodes if node.id in selection.needed], selection, pinned, store, run, listener)
        state = "completed"
    except BaseException as error:
        # Ctrl-C, and Prefect's own signal for a termination, are no Exceptions.
        state = "failed" if isinstance(error, Exception) else "stopped"
        raise
    finally:
        run.end(state)
    _publish(run)
    return run.id


def _pinned(home: Path, evaluate_run: str, selection: Selection) -> dict[str, Artifact]:
    """The artifacts of a run that stand for the stages an evaluation doesn't execute, whatever their keys would be now."""
    artifacts = find_run(home, evaluate_run).artifacts
    pinned = {name: artifact for name, artifact in artifacts.items() if name in selection.needed - selection.allowed}
    for name, artifact in pinned.items():
        wrong = damage(artifact)
        if wrong:
            raise RecipeError(
                f"{evaluate_run} must have its artifact of {name}, got a damaged one ({wrong}); run its recipe again"
            )
    return pinned


def _run_nodes(
    nodes: Sequence[Node],
    selection: Selection,
    pinned: Mapping[str, Artifact],
    store: Store,
    run: Run,
    listener: Listener,
) -> None:
    children = Children(run.folder / "logs")
    execution = Execution(store, children, on_log=lambda node, text: None, on_progress=listener.on_progress)
    results: dict[str, dict[str, str]] = {name: artifact.as_json() for name, artifact in pinned.items()}
    with _ended(children):
        for node in nodes:
            if node.id in pinned:
                run.add(node, pinned[node.id], cached=True, seconds=0.0)
                listener.on_done(node, True, 0.0)
                continue
            inputs = {role: results[name] for role, name in node.inputs.items()}
            made_of = ingredients(node, {role: Artifact.from_json(result) for role, result in inputs.items()}, store)
            refresh = node.stage in selection.refresh
            problem = store.problem(node.stage, made_of.key())
            if problem:
                listener.on_message(f"{node.label}: not used, made anew: {problem}")
            if not refresh and node.id not in selection.allowed and store.find(node.stage, made_of.key()) is None:
                raise RecipeError(selection.refusal(node))
            listener.on_start(node)
            started_s = time.monotonic()
            records = store.root.parent / "prefect" / "records"
            results[node.id] = run_node(node, made_of, inputs, execution, refresh=refresh, records=records)
            cached = node.id not in execution.executed
            seconds = execution.executed.get(node.id, time.monotonic() - started_s)
            run.add(node, Artifact.from_json(results[node.id]), cached=cached, seconds=round(seconds, 3))
            listener.on_done(node, cached, seconds)


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
    from evaluation.summary import table_rows

    summary = read_json(run.folder / "summary.json")
    rows = table_rows(summary)
    key = run.record["recipe"].lower().replace("_", "-")
    if rows:
        create_table_artifact(rows, key=f"{key}-results", description=f"Results of {run.id}")
    report = run.folder / "report.html"
    create_link_artifact(report.as_uri(), link_text=f"report of {run.id}", key=f"{key}-report", description=str(report))
