"""What a recipe's tasks read of hubs and URLs: the parts of its bundle, each with the recipe's key that names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bnf.plugins import load
from data.reading.records import is_hub_id
from data.sources import SOURCES
from evaluation.benchmarks import BENCHMARKS
from evaluation.bundle import PartKind, part_key, set_variant, url_name
from evaluation.engines import is_remote
from evaluation.hub_loading import OF_FILES, is_commit
from flows.dag import hub
from flows.errors import RecipeError
from tasks.keys import ROOT
from tasks.nodes import Node


@dataclass(frozen=True)
class Wanted:
    """One model, data set or URL that tasks read.

    Attributes:
        key: where the recipe names it.
        name: the hub id, or the URL.
        commit: which commit the keys hold; of a URL the version that its server says.
        config, more: of a data set what load_dataset is told beside its id.
    """

    key: str
    kind: PartKind
    name: str
    commit: str
    config: str | None = None
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def part_name(self) -> str:
        """What the part is called in the bundle."""
        return url_name(self.name) if self.kind == "url" else self.name

    @property
    def variant(self) -> str:
        return set_variant(self.config, self.more) if self.kind == "dataset" else ""

    @property
    def part_key(self) -> str:
        return part_key(self.kind, self.part_name, self.commit, self.variant)

    def revisions(self) -> list[str]:
        """The branches and tags that this process found at the commit."""
        if self.kind == "url":
            return ["main"]
        return sorted(asked or "main" for asked, commit in hub.pins(self.kind, self.name).items() if commit == self.commit)


def wanted(nodes: Sequence[Node]) -> list[Wanted]:
    """What these tasks read of hubs and URLs, each once, whether their outputs are cached or not.

    Raises:
        RecipeError: a hub isn't reached, or doesn't give it.
    """
    found = {one.part_key: one for node in nodes for one in _of(node)}
    return list(found.values())


def left_out(nodes: Sequence[Node]) -> list[str]:
    """What these tasks read besides, and no bundle holds: files and folders of this machine, and endpoints."""
    files = [path for node in nodes for path in node.files.values() if not path.is_relative_to(ROOT)]
    files += [Path(folder) for node in nodes if (folder := node.unkeyed.get("include_path"))]
    endpoints = [
        str(engine["base_url"] or "api.openai.com")
        for node in nodes
        if (engine := node.settings.get("engine")) and is_remote(engine["name"])
    ]
    return list(dict.fromkeys([*map(str, files), *endpoints]))


def read_urls(node: Node) -> list[str]:
    """The URLs that a task reads, whole."""
    paths = {
        f"source{number}": source["path"] for number, source in enumerate(node.settings.get("sources", ())) if "path" in source
    }
    if (prompts := node.settings.get("path")) is not None:
        paths["prompts"] = prompts
    return [whole_path(node, role, path) for role, path in paths.items() if "://" in path]


def whole_path(node: Node, role: str, path: str) -> str:
    """The path of one of a task's inputs, with what its settings hide: a URL's query may be its signature, and stands outside the key."""
    return str(node.unkeyed.get("urls", {}).get(role, path))


def _of(node: Node) -> Iterator[Wanted]:
    settings = node.settings
    if node.stage == "resolve" and "model" not in node.files:
        section = node.unkeyed.get("section", "")
        yield _of_hub(f"{section}model_name_or_path", "model", settings["model_name_or_path"], settings["revision"])
    elif node.stage == "prepare":
        sources = settings.get("sources", ())
        for number, source in enumerate(sources):
            if (name := f"source{number}") not in node.files:
                key = "data.path" if len(sources) == 1 else f"data.{number}.path"
                yield _place(key, whole_path(node, name, source["path"]), source)
    elif node.stage == "sample" and "prompts" not in node.files:
        if settings["path"] is not None:
            yield _place(
                "sample.path",
                whole_path(node, "prompts", settings["path"]),
                {**settings["place"], "version": settings.get("version")},
            )
        else:
            for one in load(SOURCES, settings["source"]).HUB:
                revision = settings["place"].get("revision")
                yield _of_hub("sample.source", "dataset", one.path, revision, settings["place"].get("config", one.config))
    elif node.stage in ("generate", "contamination") and settings["source"] == "hub":
        of = load(BENCHMARKS, settings["benchmark"]).HUB
        for config in of.configs if of is not None else ():
            assert of is not None
            yield _of_hub(f"benchmarks.{settings['benchmark']}.source", "dataset", of.id, settings.get("revision"), config)
    elif node.stage == "lm_eval":
        for one in settings.get("sets", ()):
            more = {name: value for name, value in one.items() if name in OF_FILES}
            yield _of_hub(
                f"evaluation.lm_eval.{settings['task']}", "dataset", one["path"], one["revision"], one["config"], more
            )


def _place(key: str, path: str, given: Mapping[str, object]) -> Wanted:
    if "://" in path:
        return Wanted(key, "url", path, str(given["version"]))
    assert is_hub_id(path)
    revision, config = given.get("revision"), given.get("config")
    return _of_hub(key, "dataset", path, None if revision is None else str(revision), None if config is None else str(config))


def _of_hub(
    key: str,
    kind: hub.HubKind,
    name: str,
    revision: str | None,
    config: str | None = None,
    more: Mapping[str, object] | None = None,
) -> Wanted:
    found = hub.asked_for(kind, name, revision)
    if found.wrong is not None or not found.is_reached:
        what = "a model" if kind == "model" else "a data set"
        raise RecipeError(f"{key} must be {what} that the hub gives, got {name!r}: {found.wrong or found.seen}")
    if revision is None or not is_commit(revision):
        raise RecipeError(f"{key} must be at a commit that the hub says, got {name!r}, which {found.seen}; try again")
    return Wanted(key, kind, name, revision, config, more or {})
