"""The prompts that a policy is asked to complete: a pool to train on, and others that are held out.

Three kinds of `data/sources/<name>.py` give them: those with `make` write their own; those with `item` read problems that a
benchmark of the same name can score; and of every preference source the prompts alone can be had.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from bnf.plugins import load
from data.parse import Parser
from data.reading.formats import parse_line
from data.reading.records import Bad, DataSource, Raw, Reader
from data.rows import Fields, RowError
from evaluation.benchmarks import BENCHMARKS
from evaluation.records import Record

_logger = logging.getLogger(__name__)


def load_prompts(source: str, path: str | None, num_prompts: int, **place: str) -> list[Record]:
    """The first `num_prompts` different prompts of a source: {"id", "messages", "item"}, where `item` is what a verifier scores
    against and empty where there is nothing to score; with `tools` and `documents` where the prompt has them.

    `path` is as in the recipe's `data`; None is what the source has of its own, or its hub id. `place` are `split`, `config` and
    `revision` of a `DataSource`, as far as they are given.

    Raises:
        FileNotFoundError: where there is nothing at the path.
        ValueError: where a row can't be read, or there are not so many prompts.
    """
    module = importlib.import_module(f"data.sources.{source}")
    if hasattr(module, "make"):
        for name, given in {"path": path, **place}.items():
            if given is not None:
                raise ValueError(
                    f"sample.{name} must be left out for {source}, which makes its own prompts, got {given}; remove it"
                )
        made: list[Record] = module.make(num_prompts)
        return made
    prompts = list(itertools.islice(_different(_read(source, module, path, place)), num_prompts))
    if len(prompts) < num_prompts:
        raise ValueError(
            f"sample.num_prompts and held_out_prompts must be at most {len(prompts)} together for {path or source}, got "
            f"{num_prompts}; ask for fewer"
        )
    return prompts


def prompts_of_round(pool: Sequence[Record], number: int, size: int | None) -> list[Record]:
    """The prompts of round `number` (from 1): the next `size` of the pool, from its start again after its end; None takes all."""
    if size is None:
        return list(pool)
    first = (number - 1) * size
    return [pool[place % len(pool)] for place in range(first, first + size)]


def check_source(source: str, path: str | None) -> None:
    """Refuses a source that needs a path without one.

    Raises:
        ValueError: naming what to add.
    """
    module = importlib.import_module(f"data.sources.{source}")
    if path is None and not hasattr(module, "make") and not hasattr(module, "HUB"):
        raise ValueError(f"sample.path must say where the source {source} reads, got nothing; add the file, folder or hub id")


def _read(source: str, module: ModuleType, path: str | None, place: Mapping[str, Any]) -> Iterator[Record]:
    check_source(source, path)
    sources: Sequence[DataSource] = module.HUB if path is None else [DataSource(source, path)]
    for one in (dataclasses.replace(one, **place) for one in sources):
        yield from _problems(module, one) if hasattr(module, "item") else _prompts(one)


def _problems(module: ModuleType, place: DataSource) -> Iterator[Record]:
    benchmark = load(BENCHMARKS, place.source)
    for raw in Reader(place):
        try:
            item = module.item(Fields(_record(raw), module.COLUMNS))
        except RowError as error:
            raise _unreadable(place, raw, str(error)) from error
        # Named by its content: the same problem has the same id wherever it lies.
        id = f"{place.source}-train-{hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:16]}"
        item = {"id": id, **item}
        yield {"id": id, "messages": benchmark.messages(item), "item": item}


def _prompts(place: DataSource) -> Iterator[Record]:
    parse, unread = Parser(place), set[str]()
    for raw in Reader(place):
        _, row = parse(raw)
        if isinstance(row, Bad):
            raise _unreadable(place, raw, row.detail)
        if set(row.unread) - unread:
            unread |= set(row.unread)
            _logger.warning("%s has columns with text that are not read: %s", place.path, ", ".join(sorted(unread)))
        said = [row.messages, row.context] if row.context else row.messages
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
        yield {"id": f"{place.source}-{digest}", "messages": row.messages, **row.context, "item": {}}


def _record(raw: Raw) -> Record:
    value = parse_line(raw.value, raw.line) if isinstance(raw.value, bytes) else raw.value
    if isinstance(value, Bad):
        raise RowError(value.reason, value.detail)
    return value


def _different(prompts: Iterator[Record]) -> Iterator[Record]:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt["id"] not in seen:
            seen.add(prompt["id"])
            yield prompt


def _unreadable(place: DataSource, raw: Raw, detail: str) -> ValueError:
    return ValueError(f"sample.path must hold prompts, got {place.path} with line {raw.where}: {detail}; correct the line")
