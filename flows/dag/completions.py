"""How many completions of benchmarks a run will have made, and the most tokens that they may take: said before it begins."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bnf.plugins import load
from evaluation.benchmarks import BENCHMARKS
from flows.dag.checks import Check
from flows.dag.costs import items_here
from tasks.nodes import Forecast, Node

# The name of the check that says it.
COMPLETIONS = "completions"
# Settings that say how many completions there are, as a forecast names them.
_NUM_SAMPLES, _LIMIT = "settings.sampling.num_samples", "settings.limit"


@dataclass(frozen=True)
class Completions:
    """What is asked of one benchmark.

    Attributes:
        models: Who answers it: `base`, `aligned`, or a policy of the training's way by its name.
        num_items: None where a hub has them and nobody says how many they are.
        num_samples: Completions of each item; of a conversation those of its turns.
        max_new_tokens: Of one completion.
    """

    benchmark: str
    models: tuple[str, ...]
    num_items: int | None
    num_samples: int
    max_new_tokens: int

    @property
    def num_completions(self) -> int | None:
        """Of each model."""
        return None if self.num_items is None else self.num_items * self.num_samples

    @property
    def max_tokens(self) -> int | None:
        """Of each model's completions together."""
        return None if self.num_completions is None else self.num_completions * self.max_new_tokens

    def to_json(self) -> dict[str, object]:
        return {
            **vars(self),
            "models": list(self.models),
            "num_completions": self.num_completions,
            "max_tokens": self.max_tokens,
        }

    @property
    def in_words(self) -> str:
        """`aime_2024: 480 (30 items × 16) by base and aligned, each at most 15,728,640 tokens`."""
        who = " and ".join(self.models)
        each = ", each" if len(self.models) > 1 else ","
        if self.num_completions is None or self.max_tokens is None:
            return f"{self.benchmark}: {self.num_samples} of each item by {who}{each} at most {self.max_new_tokens:,} tokens"
        times = f" ({self.num_items} items × {self.num_samples})" if self.num_samples > 1 else ""
        return f"{self.benchmark}: {self.num_completions:,}{times} by {who}{each} at most {self.max_tokens:,} tokens"


def asked_completions(forecasts: Iterable[Forecast]) -> list[Completions]:
    """What the tasks that may run ask for: an entry for each benchmark, in the order of the run."""
    found: dict[str, Completions] = {}
    for node in (entry.node for entry in forecasts if entry.node.stage == "generate" and entry.cached is not True):
        name, model = str(node.benchmark), node.checkpoint or str(node.role)
        if name in found:
            before = found[name]
            found[name] = replace(before, models=(*before.models, model))
            continue
        num_samples = node.settings.get("sampling", {}).get("num_samples", 1) * load(BENCHMARKS, name).NUM_TURNS
        found[name] = Completions(name, (model,), _num_items(node), num_samples, node.settings["max_new_tokens"])
    return list(found.values())


def completion_check(forecasts: Iterable[Forecast]) -> Iterator[Check]:
    """Says the number of completions and the most tokens of each benchmark."""
    if asked := asked_completions(forecasts):
        said = "; ".join(one.in_words for one in asked)
        notes = "tokens are of all completions of a model together; what earlier generations made is not made again"
        yield Check(COMPLETIONS, None, f"{said}; {notes}", is_cost=True)


def kept_completions(entry: Forecast) -> str | None:
    """What earlier generations made of it, in words: where it differs from the last run's in the number of items or samples alone. None
    where it differs otherwise, or where their number isn't known.
    """
    node, changed = entry.node, {change["key"]: change["old"] for change in entry.changed}
    sampling = node.settings.get("sampling")
    # Without seeds of their own, samples of other items are drawn together with others.
    more = {_NUM_SAMPLES, _LIMIT} if sampling is None else {_NUM_SAMPLES}
    if (
        node.stage != "generate"
        or not changed
        or not changed.keys() <= more
        or load(BENCHMARKS, str(node.benchmark)).NUM_TURNS > 1
    ):
        return None
    items = _num_items(node)
    if items is None:
        return None
    samples = 1 if sampling is None else sampling["num_samples"]
    of_items = min(items, changed.get(_LIMIT) or items)
    of_samples = min(samples, changed.get(_NUM_SAMPLES, samples))
    return f"{of_items * of_samples} of {items * samples} completions are there, of earlier generations"


def _num_items(node: Node) -> int | None:
    name, limit = str(node.benchmark), node.settings["limit"]
    if node.settings["source"] == "hub":
        known = [number for number in (load(BENCHMARKS, name).NUM_ITEMS, limit) if number is not None]
        return min(known) if known else None
    file = node.files.get("source")
    return _counted(name, node.settings["source"], limit, file, file.stat().st_mtime_ns if file and file.exists() else 0)


@functools.cache
def _counted(name: str, source: str, limit: int | None, file: Path | None, changed: int) -> int | None:
    """The number of items; a sweep's runs have the same ones. `changed` is when the file was."""
    asked = Node("generate", {"source": source, "limit": limit}, files={"source": file} if file else {})
    items = items_here(load(BENCHMARKS, name), asked)
    return None if items is None else len(items)
