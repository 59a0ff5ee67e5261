"""The DAG's nodes, and what is known of them without running anything: keys, hits, and what changed."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluation.records import read_json
from tasks.keys import Ingredients, changes, code_digests, library_versions
from tasks.remote import MANIFEST
from tasks.store import Artifact, Store

# Roles whose input is a model folder, wherever it lies.
MODEL_ROLES = frozenset({"model", "policy", "judge", "reference_model"})


@dataclass(frozen=True)
class Node:
    """One task of a run: a stage with the part of the recipe it reads.

    `inputs` maps roles to the ids of the nodes it reads and `files` to files or model folders from outside, whose content is what
    counts. `plugins` are the code that the recipe chose by name (an objective, a benchmark's functions), in the form `code_digests`
    takes. `unkeyed` settings reach the stage without being part of its key. `session` names the child process that the node shares
    with its neighbours.
    """

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    plugins: Sequence[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    unkeyed: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    benchmark: str | None = None
    session: str | None = None

    @property
    def id(self) -> str:
        return "/".join(filter(None, [self.stage, self.model, self.benchmark]))

    @property
    def label(self) -> str:
        """The task run's name: `generate-aligned-gsm8k`."""
        return self.id.replace("/", "-")


@dataclass(frozen=True)
class Forecast:
    """What is known of a node before the run. `cached` is None where it depends on whether the stage before gives the same bits."""

    node: Node
    key: str | None
    cached: bool | None
    artifact: Artifact | None
    changed: list[dict[str, Any]]
    problem: str | None = None
    kept: bool = False  # taken although other code made it

    def as_json(self) -> dict[str, Any]:
        node = self.node
        return {
            "stage": node.stage,
            "model": node.model,
            "benchmark": node.benchmark,
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


def other_code(node: Node, manifest: Mapping[str, Any]) -> list[str]:
    """The modules of an artifact's stage that have changed, come or gone since it was made."""
    now = _code(node)
    return [change["key"].removeprefix("code.") for change in changes({"code": manifest["ingredients"]["code"]}, {"code": now})]


def with_other_code(node: Node, other: Mapping[str, Sequence[str]]) -> Node:
    """The node as it runs: a report says which artifacts other code made (node id → modules), and so they are part of its key."""
    if node.stage != "report" or not other:
        return node
    return replace(node, settings={**node.settings, "other_code": {name: list(modules) for name, modules in other.items()}})


def not_done_again(node: Node, artifact: Artifact) -> str | None:
    """What a cached stage doesn't do though settings outside its key ask for it; None where there is nothing, or its files aren't here."""
    stage = importlib.import_module(f"tasks.stages.{node.stage}")
    if not hasattr(stage, "not_done_again") or not (artifact.path / MANIFEST).exists():
        return None
    said: str | None = stage.not_done_again({**node.settings, **node.unkeyed}, artifact.path)
    return said


def environment(node: Node) -> dict[str, str]:
    """Variables that the node's child process needs from its very start."""
    stage = importlib.import_module(f"tasks.stages.{node.stage}")
    return stage.environment(node.settings) if hasattr(stage, "environment") else {}


def input_path(role: str, folder: Path) -> Path:
    """Where a stage reads an input: the artifact's folder, or for a model the model's, which may be outside the store."""
    if role not in MODEL_ROLES:
        return folder
    manifest = read_json(folder / MANIFEST)
    return Path(manifest["model_path"]) if "model_path" in manifest else folder / manifest["model_folder"]


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


def _old_ingredients(previous: Artifact | None) -> dict[str, Any]:
    """What the last run's artifact was made of; nothing where that can't be read any more: it only explains a miss."""
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
