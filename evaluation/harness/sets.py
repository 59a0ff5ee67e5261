"""Which data sets lm-eval's tasks read, from their definitions alone, and how they are read at the commit that a run's key holds.

lm-eval's own index takes 20 s to build, and a plan wants to know it at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import yaml

from evaluation.harness.definitions import definition_folders, names_in
from evaluation.hub_loading import OF_FILES, load_set
from evaluation.records import Record


@dataclass(frozen=True)
class TaskSet:
    """A data set of the hub that a task reads: its id, its configuration, the revision where the task names one, and which files."""

    path: str
    config: str | None
    revision: str | None = None
    more: Record = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """YAML in which a tag such as `!function` is text: no code is looked at."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: str(getattr(node, "value", "")))


def task_sets(name: str, include_path: Path | None = None) -> list[TaskSet]:
    """The sets that a task reads, or each task of a group or tag. A task that makes its data in Python, or reads files, adds none."""
    found: list[TaskSet] = []
    for definition in _definitions(name, definition_folders(include_path), []):
        path, kwargs = definition.get("dataset_path"), definition.get("dataset_kwargs") or {}
        if definition.get("custom_dataset") or not isinstance(path, str) or path.count("/") != 1 or Path(path).exists():
            continue
        more = {key: value for key, value in kwargs.items() if key in OF_FILES and value is not None}
        config, revision = definition.get("dataset_name"), kwargs.get("revision")
        # YAML reads a bare `1.0` as a number.
        one = TaskSet(path, None if config is None else str(config), None if revision is None else str(revision), more)
        if one not in found:
            found.append(one)
    return found


def _definitions(name: str, folders: Sequence[Path], above: list[str]) -> Iterator[Record]:
    if name in above:
        return
    for folder in folders:
        file = names_in(folder).get(name)
        if file is not None:
            yield from _tasks_of(_read(file), folders, [*above, name])
            return
    for file in _tagged(name, tuple(folders)):
        yield from _tasks_of(_read(file), folders, [*above, name])


def _tasks_of(definition: Record, folders: Sequence[Path], above: list[str]) -> Iterator[Record]:
    """A task's definition, or those of a group's tasks, which may be names, or definitions of their own."""
    inner = definition.get("task")
    if not isinstance(inner, list):
        yield definition
        return
    for one in inner:
        if isinstance(one, str):
            yield from _definitions(one, folders, above)
        elif isinstance(one, dict):
            named = one.get("task")
            if isinstance(named, str) and "dataset_path" not in one:
                for known in _definitions(named, folders, above):
                    yield {**known, **{key: value for key, value in one.items() if key != "task"}}
            else:
                yield from _tasks_of(one, folders, above)


@functools.cache
def _tagged(tag: str, folders: tuple[Path, ...]) -> list[Path]:
    """The files whose tasks have the tag, by themselves or by what they include."""
    found = []
    for folder in folders:
        texts = {
            file: file.read_text(encoding="utf-8", errors="replace")
            for file in sorted(folder.rglob("*yaml*"))
            if file.is_file()
        }
        holders = {file for file, text in texts.items() if tag in text}
        names = {file.name for file in holders}
        for file, text in texts.items():
            if file.suffix == ".yaml" and (file in holders or any(name in text for name in names)):
                definition = _read(file)
                tags = definition.get("tag") or []
                if isinstance(definition.get("task"), str) and tag in ([tags] if isinstance(tags, str) else tags):
                    found.append(file)
    return found


def _read(file: Path) -> Record:
    """A definition with what it includes, of which its own values take the place."""
    loader = _Loader(file.read_text(encoding="utf-8", errors="replace"))
    try:
        found = loader.get_single_data()
    finally:
        loader.dispose()
    own = found if isinstance(found, dict) else {}
    included = own.pop("include", None) or []
    merged: Record = {}
    for name in [included] if isinstance(included, str) else included:
        path = file.parent / name
        if path.is_file():
            merged |= _read(path)
    return merged | own


@contextmanager
def at_commits(commits: Mapping[tuple[str, str | None], str]) -> Iterator[None]:
    """Have datasets.load_dataset read sets of the hub at commits, and where there is a bundle all sets from there.

    Args:
        commits: by a set's id and the revision that a task asks for; two tasks may ask for two.
    """
    import datasets

    load_dataset = datasets.load_dataset

    def load(path: str, name: str | None = None, **options: object) -> object:
        if path.count("/") != 1 or Path(path).exists() or path.endswith(".py"):
            return load_dataset(path, name, **options)
        asked = options.pop("revision", None)
        asked = None if asked is None else str(asked)
        revision = commits.get((path, asked), asked)
        given = {key: value for key, value in options.items() if value is not None}
        with patch.object(datasets, "load_dataset", load_dataset):
            return load_set(path, name, **given, **({} if revision is None else {"revision": revision}))

    with patch.object(datasets, "load_dataset", load):
        yield
