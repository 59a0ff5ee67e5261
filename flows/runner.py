"""Runs the nodes of a plan: several at the same time where the machine's resources allow, and keeps the run's record meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bnf.plugins import load
from bnf.training.loggers import RUN_VARIABLE
from evaluation.spending import LEDGER_VARIABLE
from flows.dag import resources
from flows.dag.engine_checks import load_checks
from flows.dag.on_policy import BASE
from flows.dag.plan import Plan
from flows.dag.preflight import require
from flows.dag.ray_checks import cluster_variables
from flows.dag.schedule import Waiting, startable
from flows.dag.thought_checks import thought_checks
from flows.dag.trainable import groups_problem, memory_problem, model_problem
from flows.errors import RecipeError
from flows.runs.past import Makers
from flows.runs.progress import ProgressWriter
from flows.runs.record import Run, now
from flows.service.sharing import WHOLE, Share
from flows.wording import place
from tasks.child import Cancelled
from tasks.children import Children
from tasks.execute import Execution
from tasks.keys import Ingredients
from tasks.nodes import Node, ancestors, ingredients, model_folder, not_done_again, other_code, with_other_code
from tasks.prefect_task import run_node
from tasks.resources import DEVICES, Devices, needs_accelerator
from tasks.stages import STAGES
from tasks.store import Artifact
from tasks.threads import Ended, Threads

# How often a run looks whether somebody has cancelled it, while nothing ends.
_LOOK_S = 0.5
# How long the nodes at work have to end in order. One may be asleep before another try, and has no process then.
_STOP_S = 10.0


@dataclass(frozen=True)
class Listener:
    """What is called when a run starts, a task starts, goes on or ends, or there is something to say; the terminal shows it."""

    on_run: Callable[[Run], None] = lambda run: None
    on_start: Callable[[Node], None] = lambda node: None
    on_progress: Callable[[Node, int, int, str], None] = lambda node, done, total, note: None
    on_done: Callable[[Node, bool, float], None] = lambda node, cached, seconds: None
    on_failed: Callable[[Node], None] = lambda node: None
    on_message: Callable[[str], None] = lambda text: None


SILENT = Listener()


@dataclass(frozen=True)
class Found:
    """A node whose inputs are there, and what the store has of it.

    Attributes:
        made_of: what its key is made of; of an artifact that is kept though other code made it, what that is made of.
        artifact: None where it has to be made.
        open_part: which of the artifact's requests are made again, in words.
        problem: what is wrong with an artifact that isn't used.
    """

    node: Node
    inputs: Mapping[str, Artifact]
    made_of: Ingredients
    artifact: Artifact | None
    open_part: str | None
    problem: str | None


@dataclass
class Runner:
    """Runs a plan's nodes, at the same time where resources allow, and keeps the run's record.

    Nodes are at work on threads; all else is done by the thread that calls `run`, so the record has one writer. `unshown` is told what
    Prefect's server could not be told.
    """

    plan: Plan
    record: Run
    listener: Listener
    cancelled: Callable[[], bool]
    keys: Mapping[str, str]
    share: Share = WHOLE
    unshown: Callable[[Exception], None] = lambda error: None
    asked: dict[str, str | None] = dataclasses.field(default_factory=dict)

    def run(self) -> None:
        """Take every node's artifact from the store, or make it.

        Where a node fails no other begins; those at work end first, and then the first failure of the plan is raised.
        """
        self.record.plan(self.plan.nodes)
        self.progress, self.makers = ProgressWriter(self.record.folder), Makers(self.plan.store.root.parent)
        self.ending = threading.Event()
        self.children = Children(
            self.record.folder / "logs",
            lambda: self.share.hold(self._stopped, lambda: self._say("waiting for other runs' accelerator"), self.unshown),
            self._stopped,
            {
                LEDGER_VARIABLE: str(self.record.folder / "spending.jsonl"),
                RUN_VARIABLE: self.record.id,
                **cluster_variables(self.plan.checks),
                **self.keys,
            },
            self._devices,
        )
        self.execution = Execution(
            self.plan.store, self.children, on_log=lambda node, text: None, on_progress=self._on_progress
        )
        self.results: dict[str, Artifact] = {}
        self.other_code: dict[str, list[str]] = {}
        self.found: dict[str, Found] = {}
        self.began: dict[str, tuple[str, float]] = {}
        # When its thread ended, not when the run noticed.
        self.ended: dict[str, str] = {}
        self.failures: dict[str, Exception] = {}
        self.shown: set[str] = set()  # those of the failures that were shown
        with Threads[Artifact]() as threads, _ended(self.children):
            try:
                self._run(threads)
            except BaseException:
                self.ending.set()
                threads.wait(_STOP_S)
                raise

    @property
    def _devices(self) -> Devices:
        return self.share.devices or resources.shared_devices(self.plan.recipe)

    def _say(self, text: str, about: str = "") -> None:
        """Tell the listener, and whoever watches from elsewhere; `about` is the label of a task that has ended."""
        self.progress.message(text, about)
        self.listener.on_message(text)

    def _on_progress(self, node: Node, done: int, total: int, note: str) -> None:
        self.progress.progress(node.label, done, total, note)
        self.listener.on_progress(node, done, total, note)

    def _stopped(self) -> bool:
        return self.cancelled() or self.ending.is_set()

    def _run(self, threads: Threads[Artifact]) -> None:
        nodes = {node.id: node for node in self.plan.nodes}
        totals = resources.totals(self.plan.recipe, self._devices, self.share.cpu_slots)
        alone = resources.one_at_a_time(self.plan.recipe, self.plan.nodes, self._devices)
        while len(self.results) < len(nodes) or self.failures:
            if self.cancelled():
                raise Cancelled("the run was cancelled")
            if not self.failures and not alone:
                for node in nodes.values():
                    if self._is_ready(node):
                        self._try(node, self._look, threads)
            tasks = [self._waiting(node, totals[DEVICES], alone) for node in nodes.values()]
            begin = [] if self.failures else startable(tasks, self.results.keys(), threads.at_work, totals)
            for name in begin:
                if not self.failures:
                    self._try(nodes[name], lambda node: self._begin(node, threads), threads)
            if not threads.at_work:
                if self.failures:
                    raise self._first_failure(nodes)
                assert begin, "a run without a node at work must have one that can begin"
            elif (ended := threads.ended(_LOOK_S)) is not None:
                self._try(nodes[ended.name], functools.partial(self._finish, ended), threads)

    def _first_failure(self, nodes: Mapping[str, Node]) -> Exception:
        """The first failure of the plan; the others are shown, those that weren't yet."""
        first, *others = (name for name in nodes if name in self.failures)
        for name in others:
            if name not in self.shown:
                self._say(f"{nodes[name].label}: {self.failures[name]}")
        return self.failures[first]

    def _is_ready(self, node: Node) -> bool:
        """Whether the node's inputs are there, and nobody has looked for the node itself yet."""
        known = node.id in self.plan.pinned or node.id in self.found
        return not known and all(name in self.results for name in node.inputs.values())

    def _waiting(self, node: Node, num_devices: int, alone: bool) -> Waiting:
        """The node as the schedule knows it; that it is cached is known once its inputs are there."""
        if node.id in self.plan.pinned:
            return Waiting(node.id, needs={resources.TURN: 1} if alone else {})
        found = self.found.get(node.id)
        is_cached = found is not None and found.artifact is not None and found.open_part is None
        return resources.waiting(node, num_devices, is_cached=is_cached, alone=alone)

    def _try(self, node: Node, step: Callable[[Node], object], threads: Threads[Artifact]) -> None:
        """A step of a node's way. Where it fails, the nodes that are at work go on to their end."""
        try:
            step(node)
        except Cancelled:
            raise
        except Exception as error:
            self.failures[node.id] = error
            if threads.at_work:
                self.shown.add(node.id)
                others = ", ".join(name.replace("/", "-") for name in threads.at_work)
                self.listener.on_failed(node)
                self._say(f"{error}\nthe run ends when what is at work has ended: {others}")

    def _look(self, node: Node) -> Found:
        """What the store has of a node whose inputs are there; looked up once."""
        if node.id in self.found:
            return self.found[node.id]
        other = {one.id: self.other_code[one.id] for one in self.plan.nodes if one.id in self.other_code}
        node = with_other_code(node, other)
        inputs = {role: self.results[name] for role, name in node.inputs.items()}
        made_of = ingredients(node, inputs, self.plan.store)
        refresh = node.stage in self.plan.selection.refresh
        artifact = None if refresh else self.plan.store.find(node.stage, made_of.key())
        problem = self.plan.store.problem(node.stage, made_of.key())
        if problem:
            problem = f"not used, {'fetched' if artifact else 'made'} anew: {problem}"
        if artifact is None and node.stage in self.plan.selection.keep:
            artifact = self.plan.store.same_but_code(made_of)
            if artifact is not None:
                # Under its own key it is a hit like any other.
                made_of = Ingredients(**artifact.manifest["ingredients"])
        open_part = None
        if artifact is not None and node.id in self.plan.selection.allowed:
            open_part = self.plan.store.open_part(artifact)
        found = Found(node, inputs, made_of, artifact, open_part, problem)
        self.found[node.id] = found
        return found

    def _begin(self, node: Node, threads: Threads[Artifact]) -> None:
        if node.id in self.plan.pinned:
            pinned = self.plan.pinned[node.id]
            self._other_code(node, pinned)
            if self._is_read_elsewhere(node):
                # Its run may have had no shared store.
                self.began[node.id] = (now("milliseconds"), time.monotonic())
                threads.start(node.id, lambda: self.plan.store.share(pinned))
            else:
                self._done(node, pinned, cached=True, seconds=0.0)
            return
        found = self._look(node)
        node, artifact = found.node, found.artifact
        if found.problem:
            self._say(f"{node.label}: {found.problem}")
        if node.stage in self.plan.selection.keep:
            if artifact is None:
                raise RecipeError(
                    f"--keep {node.stage} must find an artifact that differs in code alone, got none after the stages before it "
                    "gave other bits; run without --keep"
                )
            self._other_code(node, artifact)
        refresh = node.stage in self.plan.selection.refresh
        if artifact is None and not refresh and node.id not in self.plan.selection.allowed:
            raise RecipeError(self.plan.selection.refusal(node))
        if artifact is None:
            self._check_training(node, found.inputs, threads.at_work)
        if found.open_part:
            self._say(f"{node.label}: {found.open_part}")
        # Shown before it is recorded: whoever stops a run for what its record says finds that task in the message.
        self.listener.on_start(node)
        self.began[node.id] = (now("milliseconds"), time.monotonic())
        self.progress.begin(node.label, self.began[node.id][0])
        self.record.begin(node, found.made_of.key())
        threads.start(node.id, lambda: self._make(found))

    def _is_read_elsewhere(self, node: Node) -> bool:
        """Whether nodes of a cluster fetch what this node has made, as a model that they load."""
        readers = [one for one in self.plan.nodes if node.id in one.inputs.values() and one.id not in self.plan.pinned]
        return any(one.unkeyed.get("ray", "local") != "local" for one in readers)

    def _make(self, found: Found) -> Artifact:
        """The artifact of a node, on a thread of its own."""
        node, refresh = found.node, found.node.stage in self.plan.selection.refresh
        result = run_node(
            node,
            found.made_of,
            {role: artifact.as_json() for role, artifact in found.inputs.items()},
            self.execution,
            refresh=refresh,
            complete=found.open_part is not None,
            records=self.plan.store.root.parent / "prefect" / "records",
            on_retry=lambda message: self._say(f"{node.label}: tried again after: {message}"),
            on_unshown=self.unshown,
            taken=self.makers.described,
        )
        artifact = self.plan.store.publish(Artifact.from_json(result), replace=refresh or found.open_part is not None)
        if node.stage == "report":
            # The run's folder shows the report: this machine needs its files.
            self.plan.store.fetch(artifact)
        self.ended[node.id] = now("milliseconds")
        return artifact

    def _finish(self, ended: Ended[Artifact], node: Node) -> None:
        if ended.error is not None:
            raise ended.error
        assert ended.result is not None
        (started, started_s), seconds = self.began[node.id], self.execution.executed.get(node.id)
        if seconds is None:
            self._done(node, ended.result, cached=True, seconds=round(time.monotonic() - started_s, 3))
        else:
            times = {"started": started, "ended": self.ended[node.id]}
            self._done(node, ended.result, cached=False, seconds=round(seconds, 3), **times)
        self._check_engines(node, ended.result)

    def _check_engines(self, node: Node, artifact: Artifact) -> None:
        """Refuse what engines would refuse of a model that wasn't on this machine when the run was planned, once it is fetched."""
        if node.stage == "resolve" and "model" not in node.files:
            forecasts, fetched = self.plan.forecasts.values(), {node.id: model_folder(artifact.path)}
            require([*load_checks(forecasts, fetched), *thought_checks(forecasts, fetched)])

    def _check_training(self, node: Node, inputs: Mapping[str, Artifact], at_work: Sequence[str] = ()) -> None:
        """Refuse, before anything is computed for a training, what it would refuse: of the model once it is fetched, of the groups, and
        where this machine's memory doesn't hold both. `at_work` are the ids of the nodes that may hold memory meanwhile.
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
            problem = None if problem is None else problem + self._memory_of_others(at_work)
        if problem is not None:
            raise RecipeError(problem)

    def _memory_of_others(self, at_work: Sequence[str]) -> str:
        """What to say of nodes that compute on other shares of the cores: the memory that is free doesn't count what they hold."""
        shares = self._devices.cores
        others = [node.label for node in self.plan.nodes if node.id in at_work and needs_accelerator(node)] if shares else []
        if not others:
            return ""
        verb = "holds" if len(others) == 1 else "hold"
        return (
            f"; or, as {', '.join(others)} {verb} memory meanwhile, set resources.devices=1: "
            "then no other model is at work beside the training"
        )

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

    def _done(self, node: Node, artifact: Artifact, *, cached: bool, seconds: float, **times: str) -> None:
        self.results[node.id] = artifact
        self.record.add(node, artifact, cached=cached, seconds=seconds, other_code=self.other_code.get(node.id, []), **times)
        self.progress.ended(node.label)
        self.listener.on_done(node, cached, seconds)
        if cached and (said := not_done_again(node, artifact)):
            self._say(f"    {said}", node.label)
        if artifact.path.exists() and (outcome := load(STAGES, node.stage).outcome(artifact.path)):
            self._say(f"    {outcome.replace(str(artifact.path), place(artifact.path))}", node.label)
        if node.session and all(one.id in self.results for one in self.plan.nodes if one.session == node.session):
            self.children.close_session(node.session)

    def _other_code(self, node: Node, artifact: Artifact) -> None:
        """Remember and say which modules have changed since an artifact was made that is used all the same."""
        modules = other_code(node, self.plan.store.manifest(artifact))
        if modules:
            self.other_code[node.id] = modules
            self._say(f"{node.label}: kept, though other code made it ({', '.join(modules)})")


@contextlib.contextmanager
def _ended(children: Children) -> Iterator[None]:
    """End the child processes with the run: in order, or by a kill where the run breaks off."""
    try:
        yield
    except BaseException:
        children.kill()
        raise
    children.close()
