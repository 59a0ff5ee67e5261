"""Whether engines can load their models as the recipe says: asked before anything runs, and again once a model is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from bnf.parallel.cluster import Cluster
from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from evaluation.engines import ENGINES, load_options, too_many_replicas
from evaluation.records import read_json
from flows.dag.checks import Check
from flows.dag.on_policy import BASE
from flows.dag.trainable import resolved_folder
from tasks.job import Settings
from tasks.nodes import Forecast, Node

_NONE: Mapping[str, Path] = MappingProxyType({})


def engine_key(node: Node) -> str:
    """The section of the recipe that says which engine the node runs on."""
    if node.stage == "judge":
        return "judge.second" if node.role == "second" else "judge"
    return {"sample": "sample", "label": "label.judge"}.get(node.stage, "evaluation")


def load_checks(
    forecasts: Iterable[Forecast], fetched: Mapping[str, Path] = _NONE, cluster: Cluster | None = None
) -> Iterator[Check]:
    """A check of each task that will run and whose model is to be loaded as the recipe says.

    Args:
        fetched: folders of models that the forecasts don't know of, by the id of the node that resolved them.
        cluster: what Ray's cluster has, where it was asked.
    """
    known = {entry.node.id: entry for entry in forecasts}
    for entry in known.values():
        settings = {**entry.node.settings, **entry.node.unkeyed}
        if entry.cached is True or "engine" not in settings or not (load_options(settings) or "ray" in settings):
            continue
        model = known[entry.node.inputs.get("judge") or entry.node.inputs["model"]].node
        # A policy has the shape of the model that it is trained from.
        resolved = model.id if model.stage == "resolve" else BASE
        folder = fetched.get(resolved) or resolved_folder(known[resolved])
        yield Check(f"loading {entry.node.label}", _problem(entry.node, settings, folder, cluster), "fits machine and model")


def _problem(node: Node, settings: Settings, folder: Path | None, cluster: Cluster | None) -> str | None:
    """What keeps a node's engine from loading its model; `folder` is None where the model isn't here yet."""
    file = folder / "config.json" if folder is not None else None
    # Another check says that a folder has none.
    config = read_json(file, "save the model there again") if file is not None and file.is_file() else None
    options, key = load_options(settings), engine_key(node)
    if settings["engine"]["name"] == "reward_model":
        # Its replicas are on Ray. A cluster that wasn't asked may have enough.
        is_known = cluster is not None or settings.get("ray") == "local"
        found = too_many_replicas(options, cluster) if is_known else None
        return found and f"{key}.{found}"
    engine = load(ENGINES, settings["engine"]["name"])
    if settings.get("ray", "local") == "local":
        found = engine.problem(options, config) or too_many_replicas(options)
    else:
        # This machine's GPUs say nothing of a cluster's. A cluster that wasn't asked, or doesn't answer, may have enough.
        found = too_many_replicas(options, cluster) if cluster is not None else None
        found = found or engine.problem(options, config, int(options.get("tensor_parallel_size", 1)))
    if found is not None:
        return f"{key}.{found}"
    limit = "max_judgment_tokens" if "verdict" in settings else "max_new_tokens"
    longest, most = options.get("max_model_len"), settings.get(limit)
    # A judge that says its verdict otherwise than by free text writes a few tokens, whatever the limit.
    if longest is None or most is None or most < longest or settings.get("verdict", "text") != "text":
        return None
    of, lower = "", f"lower {key}.{limit}"
    if node.stage == "generate":
        # The lowest of the benchmark's own limit and the section's, whose answers are judged or scored.
        judged = load(BENCHMARKS, node.benchmark or "").FORMS
        of, lower = f" of {node.benchmark}", f"set {'judge' if judged else 'evaluation'}.{limit} below it"
    return (
        f"{key}.max_model_len must be above {limit} ({most}{of}), or a prompt has no room, got {longest}; raise it, or {lower}"
    )
