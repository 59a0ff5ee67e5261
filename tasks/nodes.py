"""The nodes of a run's DAG, and the forecast of each: its key, whether it is cached, and what changed since the last run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bnf.plugins import load, names
from tasks.job import Settings
from tasks.keys import Ingredients, changes, code_digests, library_versions
from tasks.manifest import MANIFEST, Manifest, read_manifest
from tasks.names import TaskName
from tasks.stages import ANY, FILE, MODEL, STAGES, kind_of_input
from tasks.store import Artifact, Store

# A difference between two sets of ingredients: `key` (dotted), `old`, `new`.
Change = dict[str, Any]


@dataclass(frozen=True)
class Node(TaskName):
    """One task of a run: a stage with the part of the recipe it reads.

    Attributes:
        settings: the part of the recipe that decides the output, as plain JSON.
        inputs: the ids of the nodes it reads, by role.
        plugins: the code that the recipe chose by name (an objective, a benchmark's functions), in the form `code_digests` takes.
        files: files or model folders from outside, by role; their content is what counts.
        unkeyed: settings that reach the stage without being part of its key.
        session: the name of the child process that the node shares with its neighbours.
    """

    settings: Settings
    inputs: Mapping[str, str] = field(default_factory=dict)
    plugins: Sequence[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    unkeyed: Settings = field(default_factory=dict)
    session: str | None = None

    @property
    def log_name(self) -> str:
        """The file in a run's `logs/` with what its process said: nodes of a session share one."""
        return f"{(self.session or self.id).replace('/', '-')}.log"


@dataclass(frozen=True)
class Forecast:
    """What a plan says of a node. `cached` is None where it depends on whether the stage before gives the same bits again.

    Attributes:
        key: None where an input has never been made.
        changed: what differs from the last run's node.
        problem: what is wrong with the artifact in the store.
        kept: whether an artifact is taken that other code made.
    """

    node: Node
    key: str | None
    cached: bool | None
    artifact: Artifact | None
    changed: list[Change]
    problem: str | None = None
    kept: bool = False

    def as_json(self) -> dict[str, object]:
        return {
            **self.node.as_json(),
            "cached": self.cached,
            "key": self.key,
            "kept": self.kept,
            "problem": self.problem,
            "changed": self.changed,
        }


def ingredients(node: Node, inputs: Mapping[str, Artifact], store: Store) -> Ingredients:
    """What a node's key is made of, once the artifacts of its inputs are there."""
    fingerprints = {role: inputs[role].fingerprint for role in node.inputs}
    code = _code(node)
    return Ingredients(
        stage=node.stage,
        settings=node.settings,
        inputs=fingerprints | {role: store.outside_fingerprint(path) for role, path in node.files.items()},
        code=code,
        libraries=library_versions(code),
    )


def _code(node: Node) -> dict[str, str]:
    return code_digests([f"tasks.stages.{node.stage}", *node.plugins])


def other_code(node: Node, manifest: Manifest) -> list[str]:
    """The modules of an artifact's stage that have changed, come or gone since it was made."""
    now = _code(node)
    return [change["key"].removeprefix("code.") for change in changes({"code": manifest["ingredients"]["code"]}, {"code": now})]


def with_other_code(node: Node, other: Mapping[str, Sequence[str]]) -> Node:
    """A report's node with `other` in its settings: the modules that changed, by the id of each node whose artifact other code made.

    Any other node is returned as it is.
    """
    if node.stage != "report" or not other:
        return node
    return replace(node, settings={**node.settings, "other_code": {name: list(modules) for name, modules in other.items()}})


def not_done_again(node: Node, artifact: Artifact) -> str | None:
    """What the settings outside a stage's key ask for and the cached artifact lacks, in words.

    None where it lacks nothing, or where its files are not on this machine.
    """
    if not (artifact.path / MANIFEST).exists():
        return None
    return load(STAGES, node.stage).not_done_again({**node.settings, **node.unkeyed}, artifact.path)


def input_path(stage: str, role: str, folder: Path) -> Path:
    """Where a stage reads an input: the artifact's folder, or the model's, where the role is a model."""
    return model_folder(folder) if kind_of_input(stage, role) == MODEL else folder


def model_folder(artifact: Path) -> Path:
    """The model's folder, of an artifact that is a model. It may lie outside the store."""
    manifest = read_manifest(artifact)
    return Path(manifest["model_path"]) if "model_path" in manifest else artifact / manifest["model_folder"]


def check_inputs(nodes: Iterable[Node]) -> None:
    """Compares what every node reads with what its stage says that it reads.

    Raises:
        ValueError: a stage's `READS` lacks a role, names what is no stage, or has another stage under it than the one that is read.
    """
    by_id = {node.id: node for node in nodes}
    stages = names(STAGES)
    for node in by_id.values():
        for kind in load(STAGES, node.stage).READS.values():
            if kind not in (*stages, MODEL, FILE, ANY):
                raise ValueError(
                    f"READS of {node.stage} must have a stage, {MODEL}, {FILE} or {ANY} under each role, got {kind!r}; "
                    f"correct it in tasks/stages/{node.stage}.py"
                )
        for role in node.files:
            kind_of_input(node.stage, role)
        for role, name in node.inputs.items():
            kind = kind_of_input(node.stage, role)
            if kind in stages and kind != by_id[name].stage:
                raise ValueError(
                    f"{role} of {node.id} must be an output of {kind}, got {name}; correct READS of {node.stage}, or the node"
                )


def forecast(
    nodes: Sequence[Node],
    store: Store,
    last: Mapping[str, Artifact],
    pinned: Mapping[str, Artifact] | None = None,
    keep: Collection[str] = (),
) -> dict[str, Forecast]:
    """What each node of a recipe would do now, computed from manifests alone.

    Args:
        nodes: the DAG in topological order.
        last: the artifacts of the last run of the same recipe, by node id: what a miss is compared with, and whose outputs stand in
            for those of stages that would run.
        pinned: artifacts taken as they are, whatever their key would be now.
        keep: stages whose artifacts are taken where they differ in code alone.
    """
    known: dict[str, Forecast] = {}
    other: dict[str, list[str]] = {}
    for node in nodes:
        entry = _forecast(with_other_code(node, other), store, known, last, (pinned or {}).get(node.id), keep)
        known[node.id] = entry
        taken = entry.artifact if entry.kept or node.id in (pinned or {}) else None
        if taken is not None and (modules := other_code(node, store.manifest(taken))):
            other[node.id] = modules
    return known


def _forecast(
    node: Node,
    store: Store,
    known: Mapping[str, Forecast],
    last: Mapping[str, Artifact],
    pin: Artifact | None,
    keep: Collection[str],
) -> Forecast:
    if pin is not None:
        return Forecast(node, pin.key, True, pin, [])
    before = {role: known[name] for role, name in node.inputs.items()}
    certain = all(entry.cached for entry in before.values())
    artifacts = {role: entry.artifact or last.get(entry.node.id) for role, entry in before.items()}
    previous = last.get(node.id)
    old = _old_ingredients(previous)
    if any(artifact is None for artifact in artifacts.values()):
        code = _code(node)
        new = {"settings": dict(node.settings), "code": code, "libraries": library_versions(code)}
        return Forecast(node, None, False, None, changes({k: v for k, v in old.items() if k in new}, new) if old else [])
    made_of = ingredients(node, {role: artifact for role, artifact in artifacts.items() if artifact is not None}, store)
    key = made_of.key()
    artifact = store.find(node.stage, key)
    if artifact is not None:
        problem = store.open_part(artifact) or not_done_again(node, artifact)
        return Forecast(node, key, True if certain else None, artifact, [], problem)
    kept = store.same_but_code(made_of) if node.stage in keep else None
    if kept is not None:
        changed = changes(kept.manifest["ingredients"], made_of.as_json())
        return Forecast(node, kept.key, True if certain else None, kept, changed, kept=True)
    return Forecast(node, key, False, None, changes(old, made_of.as_json()) if old else [], store.problem(node.stage, key))


def _old_ingredients(previous: Artifact | None) -> dict[str, object]:
    """What the last run's artifact was made of; empty where it can't be read any more, as it only explains a miss."""
    try:
        return dict(previous.manifest["ingredients"]) if previous is not None else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def ancestors(nodes: Iterable[Node], wanted: Iterable[str]) -> set[str]:
    """The ids of the wanted nodes and of all that they need."""
    by_id = {node.id: node for node in nodes}
    needed: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += by_id[name].inputs.values()
    return needed
