"""Loads the prompts that a policy is asked to complete, from any source.

Problems come with what the benchmark of the same name scores completions against; a source of preferences gives its prompts alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from typing import TypedDict, Unpack

from bnf.plugins import load
from data.parse import Parser
from data.reading.records import Bad, DataSource, Raw, Reader
from data.rows import Fields, RowError
from data.sources import SOURCES, Source
from evaluation.benchmarks import BENCHMARKS
from evaluation.records import Record

_logger = logging.getLogger(__name__)


class Place(TypedDict, total=False):
    """What of a hub's set or a folder is read, as in a `DataSource`."""

    split: str
    config: str
    revision: str


def load_prompts(source: str, path: str | None, num_prompts: int, **place: Unpack[Place]) -> list[Record]:
    """The first `num_prompts` different prompts of a source: {"id", "messages", "item"}, with `tools` and `documents` where the prompt has
    them. `item` is what a verifier scores against, and empty where no benchmark can score.

    Args:
        path: as in the recipe's `data`; None reads from the source's own `HUB`, or takes the prompts that it makes.
        place: which split, config and revision, where they are asked for.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: a row can't be read, or there are fewer prompts.
    """
    found = load(SOURCES, source)
    if found.MAKES_PROMPTS:
        for name, given in {"path": path, **place}.items():
            if given is not None:
                raise ValueError(
                    f"sample.{name} must be left out for {source}, which makes its own prompts, got {given}; remove it"
                )
        return found.make(num_prompts)
    check_source(source, path)
    places = found.HUB if path is None else [DataSource(source, path)]
    asked = (dataclasses.replace(one, **place) for one in places)
    each = itertools.chain.from_iterable(_problems(found, one) if found.GIVES == "problems" else _prompts(one) for one in asked)
    prompts = list(itertools.islice(_different(each), num_prompts))
    if len(prompts) < num_prompts:
        raise ValueError(
            f"sample.num_prompts and held_out_prompts must be at most {len(prompts)} together for {path or source}, got "
            f"{num_prompts}; ask for fewer"
        )
    return prompts


def prompts_of_round(pool: Sequence[Record], number: int, size: int | None) -> list[Record]:
    """The prompts of round `number` (from 1): the next `size` of the pool, beginning again after its end; None takes all."""
    if size is None:
        return list(pool)
    first = (number - 1) * size
    return [pool[place % len(pool)] for place in range(first, first + size)]


def check_source(source: str, path: str | None) -> None:
    """Refuses a source that needs a path without one.

    Raises:
        ValueError: naming what to add.
    """
    found = load(SOURCES, source)
    if path is None and not found.MAKES_PROMPTS and not found.HUB:
        raise ValueError(f"sample.path must say where the source {source} reads, got nothing; add the file, folder or hub id")


def _problems(source: Source, place: DataSource) -> Iterator[Record]:
    benchmark = load(BENCHMARKS, place.source)
    for raw in Reader(place):
        try:
            value = raw.parsed()
            if isinstance(value, Bad):
                raise RowError(value.reason, value.detail)
            item = source.item(Fields(value, source.COLUMNS))
        except RowError as error:
            raise _unreadable(place, raw, str(error)) from error
        # The content gives the id, so that a problem has the same one wherever its file lies.
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


def _different(prompts: Iterator[Record]) -> Iterator[Record]:
    seen: set[str] = set()
    for prompt in prompts:
        if prompt["id"] not in seen:
            seen.add(prompt["id"])
            yield prompt


def _unreadable(place: DataSource, raw: Raw, detail: str) -> ValueError:
    return ValueError(f"sample.path must hold prompts, got {place.path} with line {raw.where}: {detail}; correct the line")
