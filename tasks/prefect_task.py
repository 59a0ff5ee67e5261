"""A stage as a Prefect task: the stage's key is the task's cache key, and the UI shows its state, logs and progress."""

from __future__ import annotations

import contextvars
import itertools
import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect import State, Task, get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.results import get_result_store
from prefect.transactions import get_transaction

from bnf.failures import Cause
from bnf.progress import Pace
from tasks.child import StageFailed
from tasks.execute import Execution, execute
from tasks.job import Settings
from tasks.keys import Ingredients
from tasks.nodes import Node
from tasks.store import Artifact

# Prefect takes about 10 ms for an update of a progress artifact.
PROGRESS_INTERVAL_S = 2.0
# How long a task that has ended waits until the server has been told of its last progress.
LAST_PROGRESS_S = 2.0
# Before each new try of what may pass by itself: a network, a busy endpoint.
RETRY_DELAYS_S = [2.0, 8.0, 30.0]
RETRY_JITTER = 0.3
# An artifact as plain JSON: what a task gives, and what the tasks after it are given.
Made = dict[str, str]


@dataclass
class ArtifactKey(CachePolicy):
    """Prefect's cache key of a task: the stage's own key. Computing it first makes Prefect's record agree with the store.

    The manifest is the truth: an artifact without a record gets one, so the task run shows as Cached; a record without a valid
    artifact is removed, so Prefect sees a plain miss.
    """

    # Prefect copies policies and calls them without arguments.
    artifact_of: Callable[[], tuple[str, Artifact | None]] | None = None
    # What the task run's log says of an artifact that is taken; None where nothing is taken.
    taken: Callable[[Artifact], str] | None = None

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, object], flow_parameters: dict[str, object], **kwargs: object
    ) -> str | None:
        assert self.artifact_of is not None
        key, artifact = self.artifact_of()
        records = get_result_store()
        if artifact is not None:
            records.persist_result_record(records.create_result_record(artifact.as_json(), key=key), holder=key)
            if self.taken is not None:
                # The task's own code, which logs otherwise, is not called.
                get_run_logger(task_ctx).info(self.taken(artifact))
        else:
            Path(records._resolved_key_path(key)).unlink(missing_ok=True)
        return key


def run_node(
    node: Node,
    made_of: Ingredients,
    inputs: Mapping[str, Made],
    execution: Execution,
    *,
    refresh: bool,
    complete: bool,
    records: Path,
    on_retry: Callable[[str], None],
    on_unshown: Callable[[Exception], None],
    taken: Callable[[Artifact], str],
) -> Made:
    """Run one node as a Prefect task. `inputs` are the results of the tasks before it, which draws the edges of the UI's graph.

    A failure that may pass by itself, such as a network's, is tried again with growing delays, and `on_retry` is told. Others are not:
    a wrong schema stays wrong. `taken` says for the log what a cached artifact is and where it was made. Progress that Prefect's server
    can't be told is left out, and `on_unshown` is told why.

    Returns:
        The artifact as plain JSON: stage, key, fingerprint, path.
    """
    progress, pace = ProgressBar(node.label, on_unshown), Pace()
    tries = itertools.count()

    def body(settings: Settings, inputs: dict[str, Made]) -> Made:
        transaction = get_transaction()
        if transaction is None or not transaction.key:
            raise RuntimeError(f"{node.label} must have a cache key, got none; see the error above")
        logger = get_run_logger()
        artifacts = {role: Artifact.from_json(value) for role, value in inputs.items()}

        def on_log(node: Node, text: str) -> None:
            logger.info(text)
            execution.on_log(node, text)

        def on_progress(node: Node, done: int, total: int, note: str) -> None:
            note = pace(done, total, note)
            progress(done, total, note)
            execution.on_progress(node, done, total, note)

        told = Execution(execution.store, execution.children, on_log, on_progress, execution.executed)
        try:
            artifact = execute(node, made_of, artifacts, told, refresh=refresh, is_retry=next(tries) > 0, complete=complete)
        finally:
            progress.wait(LAST_PROGRESS_S)
        logger.info("artifact %s (fingerprint %s)", artifact.path, artifact.fingerprint)
        return artifact.as_json()

    def may_pass(task: Task[[Settings, dict[str, Made]], Made], task_run: TaskRun, state: State[Made]) -> bool:
        error = state.result(raise_on_failure=False)
        if not (isinstance(error, StageFailed) and error.cause is Cause.PASSING):
            return False
        on_retry(str(error))
        return True

    def artifact_of() -> tuple[str, Artifact | None]:
        key = made_of.key()
        return f"{node.stage}-{key}.json", execution.store.find(node.stage, key)

    task: Task[[Settings, dict[str, Made]], Made] = Task(
        body,
        name=node.stage,
        task_run_name=node.label,
        # No tags: Prefect asks the server for a concurrency limit of every tag, and SQLite answers some of those with "busy, again
        # in 2 s".
        cache_policy=ArtifactKey(artifact_of=artifact_of, taken=None if refresh or complete else taken),
        refresh_cache=refresh or complete,
        retries=len(RETRY_DELAYS_S),
        retry_delay_seconds=RETRY_DELAYS_S,
        retry_jitter_factor=RETRY_JITTER,
        retry_condition_fn=may_pass,
        persist_result=True,
        result_storage=records,
        result_serializer="json",
        log_prints=False,
    )
    # Prefect counts the calls of a key without a lock, and the server keeps one task run of each number: nodes that begin at the same
    # time must not share a key.
    task.task_key = f"{task.task_key}-{node.label}"
    return task(json.loads(json.dumps(dict(node.settings))), dict(inputs))


def artifact_key(text: str) -> str:
    """A name as Prefect wants the keys of its artifacts: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


class ProgressBar:
    """A bar on the task run's page, made at the first progress and updated every few seconds.

    The server is told on a thread, of the newest progress alone: one that is gone or slow must not hold up the stage. An error of it
    goes to `on_unshown`.
    """

    def __init__(self, label: str, on_unshown: Callable[[Exception], None]) -> None:
        self.label, self.on_unshown = label, on_unshown
        self.id: UUID | None = None
        self.last_s = -math.inf
        self._newest: tuple[float, str] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int, note: str) -> None:
        now_s = time.monotonic()
        if total <= 0 or (now_s - self.last_s < PROGRESS_INTERVAL_S and done < total):
            return
        self.last_s = now_s
        with self._lock:
            self._newest = (100 * done / total, note)
            if self._thread is None:
                # By the context Prefect knows whose bar it is.
                context = contextvars.copy_context()
                self._thread = threading.Thread(
                    target=context.run, args=(self._tell_all,), name=f"bar-{self.label}", daemon=True
                )
                self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Wait until the server has been told of all progress, or no longer than this."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _tell_all(self) -> None:
        while True:
            with self._lock:
                newest, self._newest = self._newest, None
                if newest is None:
                    self._thread = None
                    return
            try:
                self._tell(*newest)
            except Exception as error:
                self.on_unshown(error)

    def _tell(self, percent: float, note: str) -> None:
        if self.id is None:
            # Both calls block where no event loop runs, as here; their types allow for one that does.
            self.id = cast(UUID, create_progress_artifact(progress=percent, key=artifact_key(self.label), description=note))
        else:
            update_progress_artifact(artifact_id=self.id, progress=percent, description=note)
